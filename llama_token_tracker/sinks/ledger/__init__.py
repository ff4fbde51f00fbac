"""A ledger: calls written to a database, SQLite or PostgreSQL, that outlives the process."""
