"""How OpenAI words an error.

Source:
    https://platform.openai.com/docs/guides/error-codes (checked 2026-11-22).
"""

from typing import Final

from llama_token_tracker.testing.formats.base import Answer, plain

_ERRORS: Final = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def refuse(status: int, text: str) -> Answer:
    """Refuse one request."""
    kind, code = _ERRORS.get(status, ("server_error", None))
    error = {"message": text, "type": kind, "param": None, "code": code}
    return plain({"error": error}, status=status)
