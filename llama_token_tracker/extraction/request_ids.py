"""What a provider calls a request, where an answer says that beside its figures."""

from typing import Final

from llama_token_tracker._lock import pass_on
from llama_token_tracker.extraction.fields import field_in, is_without

_PLACES: Final = (
    # The SDKs of OpenAI and Anthropic put the header there.
    # Source: https://github.com/openai/openai-python#request-ids (checked 2026-11-30).
    ("_request_id",),
    # Source: https://docs.aws.amazon.com/boto3/latest/guide/error-handling.html
    # (checked 2026-11-30).
    ("ResponseMetadata", "RequestId"),
)

KEYS: Final = frozenset(keys[0] for keys in _PLACES)
"""The outermost keys of an answer that tell it."""


def request_id_in(answer: object) -> str | None:
    """What its provider calls the request; `None` if the answer doesn't say.

    Args:
        answer: The provider's own, or what a framework left of it. Nothing is raised.
    """
    if is_without(answer, KEYS):
        return None
    try:
        for keys in _PLACES:
            found = answer
            for key in keys:
                found = field_in(found, key)
            if isinstance(found, str) and found:
                return found
    except Exception as error:  # noqa: BLE001 - whoever reads its usage says so
        pass_on(error)
    return None
