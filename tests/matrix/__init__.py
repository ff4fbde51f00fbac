"""Real clients against a loopback provider that knows what it billed."""
