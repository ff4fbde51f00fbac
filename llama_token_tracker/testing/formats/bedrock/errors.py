"""How Amazon Bedrock words an error.

Source:
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html#API_runtime_Converse_Errors
    (checked 2026-11-22).
"""

from typing import Final

from llama_token_tracker.testing.formats.base import Answer, plain

_ERRORS: Final = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


def refuse(status: int, text: str) -> Answer:
    """Refuse one request."""
    kind = _ERRORS.get(status, "InternalServerException")
    return plain({"message": text}, status=status, headers={"x-amzn-ErrorType": kind})
