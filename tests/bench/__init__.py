"""Benchmarks compare side by side in one run, and never gate."""
