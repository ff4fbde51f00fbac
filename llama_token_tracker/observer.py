"""The second ear: LlamaIndex's dispatcher tells who called whom, and every chunk of a stream.

It is attached while a handler lives and taken off when the last one is gone. What it hears it
passes on to those who listen; what goes wrong in it is swallowed by the dispatcher.
"""

import inspect
import weakref
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatInProgressEvent,
    LLMCompletionInProgressEvent,
)
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler

from llama_token_tracker.calls import OpenCalls
from llama_token_tracker.lock import LOCK

CALL_METHODS: Final = frozenset(
    prefix + stream + method
    for prefix in ("", "a")
    for stream in ("", "stream_")
    for method in ("chat", "complete")
)
"""The methods of an LLM that call a provider: `chat`, `astream_complete` and so on."""

_MAX_SPANS: Final = 50_000


class _Spans:
    """The open spans of this process, and the span each was entered in."""

    def __init__(self) -> None:
        self._parents: dict[str, str | None] = {}

    def enter(self, span_id: str, parent: str | None) -> None:
        if len(self._parents) >= _MAX_SPANS:
            # Spans that never end must not pile up; the oldest are of no use any more.
            self._parents.pop(next(iter(self._parents)), None)
        self._parents[span_id] = parent

    def leave(self, span_id: str) -> None:
        self._parents.pop(span_id, None)

    def clear(self) -> None:
        self._parents.clear()

    def __len__(self) -> int:
        return len(self._parents)

    def parent(self, span_id: str) -> str | None:
        return self._parents.get(span_id)

    def is_call(self, span_id: str) -> bool:
        """Span ids are `Class.method-uuid`."""
        name = span_id.partition("-")[0]
        return name.rpartition(".")[2] in CALL_METHODS


SPANS: Final = _Spans()
_listeners: "weakref.WeakSet[OpenCalls]" = weakref.WeakSet()


class _SpanEar(BaseSpanHandler[BaseSpan]):
    """Hears spans. It keeps none of LlamaIndex's span objects, so it skips making them."""

    def span_enter(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        parent_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        SPANS.enter(id_, parent_id)

    def span_exit(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        result: Any | None = None,
        **kwargs: Any,
    ) -> None:
        SPANS.leave(id_)
        if isinstance(result, GeneratorType | AsyncGeneratorType):
            for calls in list(_listeners):
                calls.returned(id_, result)

    def span_drop(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        err: BaseException | None = None,
        **kwargs: Any,
    ) -> None:
        SPANS.leave(id_)

    def new_span(self, *_args: Any, **_kwargs: Any) -> None:
        """Make no span."""

    def prepare_to_exit_span(self, *_args: Any, **_kwargs: Any) -> None:
        """Keep no span."""

    def prepare_to_drop_span(self, *_args: Any, **_kwargs: Any) -> None:
        """Keep no span."""


class _ChunkEar(BaseEventHandler):
    """Hears the chunks of streams."""

    @classmethod
    def class_name(cls) -> str:
        return "llama_token_tracker"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if isinstance(event, LLMChatInProgressEvent | LLMCompletionInProgressEvent):
            span_id = event.span_id
            if span_id is not None:
                for calls in list(_listeners):
                    calls.chunk(span_id, event.response)


_span_ear: Final = _SpanEar()
_chunk_ear: Final = _ChunkEar()


def listen(calls: OpenCalls, owner: object) -> None:
    """Tell `calls` of spans and chunks for as long as `owner` lives."""
    with LOCK:
        _listeners.add(calls)
        _attach()
    # At exit nobody counts any more, and half of the interpreter is gone.
    weakref.finalize(owner, _leave, weakref.ref(calls)).atexit = False


def _leave(calls: "weakref.ref[OpenCalls]") -> None:
    with LOCK:
        gone = calls()
        if gone is not None:
            _listeners.discard(gone)
        if not _listeners:
            _detach()


def _attach() -> None:
    root = get_dispatcher()
    if not any(handler is _span_ear for handler in root.span_handlers):
        # A new list, because another thread may be walking the old one.
        root.span_handlers = [*root.span_handlers, _span_ear]
    if not any(handler is _chunk_ear for handler in root.event_handlers):
        root.event_handlers = [*root.event_handlers, _chunk_ear]


def _detach() -> None:
    root = get_dispatcher()
    root.span_handlers = [
        handler for handler in root.span_handlers if handler is not _span_ear
    ]
    root.event_handlers = [
        handler for handler in root.event_handlers if handler is not _chunk_ear
    ]
    SPANS.clear()


def is_attached() -> bool:
    """Whether the observer is on LlamaIndex's dispatcher now."""
    root = get_dispatcher()
    return any(handler is _span_ear for handler in root.span_handlers)
