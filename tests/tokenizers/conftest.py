"""Settings of these tests."""

from __future__ import annotations

from hypothesis import settings

# Vocabularies load on first use, whichever example that is; time is no law.
settings.register_profile("tokenizers", deadline=None)
settings.load_profile("tokenizers")
