"""Where events are kept and added up: accounts, running totals, scopes, and what can be read."""
