"""Requests that also ask for the usage of their stream, where the program's own say nothing of it.

OpenAI, and most that speak as it does, report what a stream used only if they are asked. Asking is
the only thing that ever changes a request; what comes of it is taken out of the answer again.

Source: https://platform.openai.com/docs/api-reference/chat/create, `stream_options` (checked
2026-11-29).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker._names import ASKED_FOR_USAGE, OPENAI
from llama_token_tracker.wire.answers.stream_usage import Decoded, Passage, Refusal, WithoutUsage
from llama_token_tracker.wire.bodies import Json, decoded
from llama_token_tracker.wire.dialects import CHAT, COMPLETIONS
from llama_token_tracker.wire.listening import Listening
from llama_token_tracker.wire.operations import find
from llama_token_tracker.wire.sending import FIRST_ERROR

_OPTIONS: Final = "stream_options"
_ASKING: Final = ',"stream_options":{"include_usage":true}'

_FIXED: Final = frozenset(
    {
        "content-digest",
        "content-encoding",
        "content-md5",
        "digest",
        "signature",
        "x-amz-content-sha256",
        "x-amz-date",
    }
)
"""Headers of a request that hold for its very bytes: it's signed, or compressed."""

_SIGNED: Final = "AWS4-"
"""How an `Authorization` begins that does."""

_Made = TypeVar("_Made")


class UsageRequest(NamedTuple):
    """A request that asks for the usage of its stream.

    Attributes:
        body: Its body, of the kind that the program gave.
        host: Where it's sent.
        asking: For whom it asks.
    """

    body: Any
    host: str
    asking: Sequence[Listening]

    def passage(self, status: int, encoding: str = "") -> Passage | None:
        """What the bytes of its answer pass on their way to the program, if anything.

        Args:
            status: The answer's status.
            encoding: What its bytes are encoded with; what comes out isn't.
        """
        if status >= FIRST_ERROR:
            return Refusal(encoding, self._refused)
        return Decoded.of(encoding, WithoutUsage()) if encoding else WithoutUsage()

    def _refused(self, answer: bytes) -> None:
        for one in self.asking:
            one.refuses(self.host)
        way_out = "it isn't asked again by this watch; name those to ask, as ask_for_usage={'…'}"
        notice("{} refuses to be asked for a stream's usage", answer, way_out, self.host)


def usage_request(
    listening: Iterable[Listening],
    host: str,
    method: str,
    path: str,
    headers: Iterable[tuple[Any, Any]],
    body: Any,
) -> UsageRequest | None:
    """Ask on the way for the usage of a stream, if that may be done.

    Args:
        listening: Who listens to the client, and asks.
        host: The host's name.
        method: The request's method, in capitals.
        path: Its path.
        headers: Its headers.
        body: Its body, as bytes, text or fields.

    Returns:
        The request that asks, or `None` if it's to stay as it is.
    """
    asking = [one for one in listening if one.asks(host)]
    if not (asking and _reports_if_asked(host, method, path)) or any(map(_is_fixed, headers)):
        return None
    changed = _asking(body)
    return None if changed is None else UsageRequest(changed, host, asking)


def _reports_if_asked(host: str, method: str, path: str) -> bool:
    found = find(host, method, path)
    return (
        found is not None
        and found.operation.provider == OPENAI
        and found.dialect in (CHAT, COMPLETIONS)
        and (found.provider is None or found.provider in ASKED_FOR_USAGE)
    )


def _is_fixed(header: tuple[Any, Any]) -> bool:
    name = str(header[0]).lower()
    return name in _FIXED or (name == "authorization" and str(header[1]).startswith(_SIGNED))


def _asking(body: Any) -> Any:
    """A body that asks as well; `None` if it's no stream's, or says something of it."""
    fields = cast("Json | None", body if isinstance(body, dict) else decoded(body))
    if fields is None or fields.get("stream") is not True or _OPTIONS in fields:
        return None
    if isinstance(body, dict):
        return {**fields, _OPTIONS: {"include_usage": True}}
    # Within the text, so that all else stays as it was written, numbers and order included.
    written = body if isinstance(body, str) else body.decode()
    end = written.rindex("}")
    changed = written[:end] + _ASKING + written[end:]
    return changed if isinstance(body, str) else changed.encode()


def unless_it_fails(make: Callable[[], _Made]) -> _Made | None:
    """Make something of a request or an answer; if that fails, it stays as it is."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - asking must not stop the call
        pass_on(error)
        notice("a stream's usage could not be asked for", error, "the call goes on as it is")
        return None
