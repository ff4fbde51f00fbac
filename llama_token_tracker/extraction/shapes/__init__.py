"""How each provider writes a usage down: one table a wire format, with its source."""
