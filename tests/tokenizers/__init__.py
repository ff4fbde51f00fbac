"""Tests of the tokenizers room."""
