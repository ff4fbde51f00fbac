"""Answers that are only begun by a request, and retrieved by another."""
