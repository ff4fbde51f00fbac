"""One call to a provider as an event: what it used, and how we know."""
