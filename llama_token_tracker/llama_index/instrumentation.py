"""Handlers on LlamaIndex's dispatcher: who called whom, and every chunk of a stream.

They are attached while a callback handler lives and taken off when the last one is gone. What they
are told they pass on to listeners, and more of it to those who hear all; what goes wrong in them is
swallowed by the dispatcher.
"""

import inspect
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.embedding import (
    EmbeddingEndEvent,
    EmbeddingStartEvent,
)
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler

from llama_token_tracker._background import soon
from llama_token_tracker._lock import fresh_in_children
from llama_token_tracker._names import PROVIDERS, SPOKEN_BY_OTHERS, is_elsewhere
from llama_token_tracker.extraction.texts import is_list, items
from llama_token_tracker.llama_index.base_classes import get_dispatcher
from llama_token_tracker.llama_index.open_calls import Stream
from llama_token_tracker.llama_index.span_tree import (
    MAX_NAMES,
    MAX_SPANS,
    SPANS,
    STRUCTURED,
    Embedding,
)
from llama_token_tracker.tokenizers.request_fields import PLAIN, is_empty, kept
from llama_token_tracker.tracking.scopes import IN_GENERATORS, reset_current, restore_current

_STREAMS: Final = (GeneratorType, AsyncGeneratorType)
_MODELS: Final = (BaseLLM, BaseEmbedding)
_URL_FIELDS: Final = frozenset(("api_base", "base_url"))


class Listener(Protocol):
    """Who wants to know."""

    def returned(self, span_id: str, stream: Stream) -> None:
        """The method with this span has returned a stream."""

    def chunk(self, span_id: str | None, chunk: object) -> None:
        """A chunk has come through the stream with this span, if it has one."""

    def asked_for_structure(self, span_id: str, llm: object, arguments: Mapping[str, Any]) -> None:
        """A method that may ask the provider without a callback has been entered."""

    def left(self, span_id: str, result: object, error: BaseException | None) -> None:
        """Such a method, or one that calls a model, has returned, or raised."""

    def left_embedding(self, span_id: str, error: BaseException | None) -> None:
        """A method that embeds texts has returned, or raised."""

    def unheard(self, span_id: str, *, nests: bool) -> None:
        """A method of a model has been entered of whose calls no handler is told.

        Args:
            span_id: Its span.
            nests: Whether it may be part of another call.
        """

    # --- what only those are told who hear all -----------------------------------------------

    @property
    def hears_all(self) -> bool:
        """Whether it wants to know of every call, whatever manager its model has."""
        ...

    def entered(self, span_id: str, model: object, arguments: Mapping[str, Any]) -> None:
        """A method of a model has been entered."""

    def begun(self, span_id: str) -> None:
        """The dispatcher will be told of the chunks and the end of the call in this span."""

    def ended(self, span_id: str, response: object, error: BaseException | None) -> None:
        """The call in this span is over, or its stream is."""

    def embeds(self, span_id: str, event_id: str, model: dict[str, Any]) -> None:
        """A model has begun to embed texts."""

    def embedded(self, span_id: str, chunks: Sequence[str]) -> None:
        """A model has embedded these texts."""


_references: tuple[weakref.ref[Listener], ...] = ()
_everywhere: tuple[weakref.ref[Listener], ...] = ()
"""Those among them who hear all, or did."""


def _listeners() -> list[Listener]:
    """Those who listen, and are still there."""
    return _alive(_references)


def _alive(references: tuple[weakref.ref[Listener], ...]) -> list[Listener]:
    return [listener for reference in references if (listener := reference()) is not None]


class _SpanHandler(BaseSpanHandler[BaseSpan]):
    """Is told of spans. It keeps none of LlamaIndex's span objects, so it skips making them."""

    def span_enter(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: object = None,
        parent_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        parents = SPANS.parents
        if len(parents) >= MAX_SPANS:
            SPANS.make_room()
        parents[id_] = parent_id
        if IN_GENERATORS and (token := restore_current()) is not None:
            SPANS.note(id_).scope = token
        name, kind = id_.partition("-")[0], type(instance)
        plan = _plans[name]
        if plan.kind() is not kind:
            plan = _learn(name, kind)
        for step in plan.steps:
            step(id_, instance, bound_args.arguments)

    def span_exit(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        result: Any | None = None,
        **kwargs: Any,
    ) -> None:
        _end_span(id_, result, None)

    def span_drop(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        err: BaseException | None = None,
        **kwargs: Any,
    ) -> None:
        _end_span(id_, None, err)

    def new_span(self, *_args: Any, **_kwargs: Any) -> None:
        """Make no span."""

    def prepare_to_exit_span(self, *_args: Any, **_kwargs: Any) -> None:
        """Keep no span."""

    def prepare_to_drop_span(self, *_args: Any, **_kwargs: Any) -> None:
        """Keep no span."""


def _note_url(span_id: str, model: Any, _arguments: object) -> None:
    fields = model.__dict__
    url = fields.get("api_base")
    if url is None:
        url = fields.get("base_url")
    # Quick for most: they ask the provider of their class.
    if type(url) is not str or not is_elsewhere(url):
        return
    provider = PROVIDERS.get(model.class_name())
    if provider is None or provider in SPOKEN_BY_OTHERS:
        SPANS.note(span_id).url = url


def _note_settings(names: Sequence[str], span_id: str, model: Any, _arguments: object) -> None:
    fields = model.__dict__
    for name in names:
        value = fields.get(name)
        # Quick for most: nothing is set.
        if value is not None and not is_empty(value):
            _note_setting(span_id, name, value)


def _note_setting(span_id: str, name: str, value: object) -> None:
    notes = SPANS.note(span_id)
    if notes.settings is None:
        notes.settings = {}
    # Of the program's own objects none is kept.
    notes.settings[name] = value if type(value) in PLAIN else type(value).__name__


def _note_texts(span_id: str, model: Any, arguments: Mapping[str, Any]) -> bool:
    """Note what a method is going to embed; `False` if that's nothing."""
    batch_size = getattr(model, "embed_batch_size", None)
    if batch_size is None:
        return True
    texts = arguments.get("texts")
    if texts is None:
        texts = [arguments.get("text", arguments.get("query"))]
    if not is_list(texts):
        return True  # an iterator would be used up by being looked at
    cache = getattr(model, "embeddings_cache", None)
    known = list(items(texts))
    SPANS.note(span_id).embedding = Embedding(cache, known, batch_size)
    return bool(known)


def _tell_structured(span_id: str, model: Any, arguments: Mapping[str, Any]) -> None:
    for listener in _listeners():
        listener.asked_for_structure(span_id, model, arguments)


def _tell_embedding(span_id: str, model: Any, arguments: Mapping[str, Any]) -> None:
    if _note_texts(span_id, model, arguments):
        _tell_called(span_id, model, arguments, nests=False)


def _tell_called(
    span_id: str, model: Any, arguments: Mapping[str, Any], *, nests: bool = True
) -> None:
    if _everywhere and (hearing := [one for one in _alive(_everywhere) if one.hears_all]):
        if isinstance(model, _MODELS):  # engines have methods of these names, too
            for listener in hearing:
                listener.entered(span_id, model, arguments)
        return
    try:
        handlers = model.callback_manager.handlers
    except AttributeError:
        return
    # By what it's called: of LlamaIndex's own, or of a class that was loaded twice, it's as true.
    # No generator: what interrupts this would be lost in its end.
    for one in handlers:
        if hasattr(one.__class__, "total_llm_token_count"):
            return
    _tell_unheard(span_id, model, nests=nests)


def _tell_unheard(span_id: str, model: Any, *, nests: bool) -> None:
    """Tell of a model's call of which no handler is told, if no call around it was told of."""
    if not isinstance(model, _MODELS):
        return  # engines have methods of these names, too
    if isinstance(getattr(model, "llm", None), _MODELS):
        return  # one that asks another, whose own span tells
    SPANS.note(span_id).is_unheard = True
    around = SPANS.parent(span_id)
    while around is not None:
        notes = SPANS.notes.get(around)
        if notes is not None and notes.is_unheard:
            return
        around = SPANS.parent(around)
    for listener in _listeners():
        listener.unheard(span_id, nests=nests)


_Step: TypeAlias = Callable[[str, Any, Mapping[str, Any]], None]


class _Plan(NamedTuple):
    """What is to be done when a method is entered.

    Attributes:
        kind: The class of its object, which may hold all that the function does that made it.
        steps: What is to be done.
    """

    kind: Callable[[], type | None]
    steps: tuple[_Step, ...]


_UNKNOWN: Final = _Plan(lambda: None, ())


class _Plans(dict[str, _Plan]):
    """By a method, as `Class.method`; of classes of the same name, that of the last one."""

    def __missing__(self, name: str) -> _Plan:
        return _UNKNOWN


_plans: Final = _Plans()


def _learn(name: str, kind: type) -> _Plan:
    if len(_plans) >= MAX_NAMES:
        _plans.clear()
    _plans[name] = plan = _Plan(weakref.ref(kind), tuple(_steps_of(name, kind)))
    return plan


def _steps_of(name: str, kind: type) -> Iterator[_Step]:
    """Nothing for most: only a model's settings, and methods that may ask a provider, matter."""
    fields: Collection[str] = kind.model_fields if issubclass(kind, _MODELS) else ()
    if not _URL_FIELDS.isdisjoint(fields):
        yield _note_url
    if issubclass(kind, BaseLLM) and (settings := kept(dict.fromkeys(fields))):
        yield partial(_note_settings, tuple(settings))
    # Of those that aren't told of, or not in full, by callbacks.
    if STRUCTURED in name:
        yield _tell_structured
    elif "_embedding" in name:
        yield _tell_embedding
    elif fields and SPANS.is_call(name):  # engines have methods of these names, too
        yield _tell_called


def _end_span(span_id: str, result: Any, error: BaseException | None) -> None:
    """Forget a span, and tell of the end of a method that callbacks don't tell of in full."""
    SPANS.parents.pop(span_id, None)
    # Of most there are none, so that nothing else is asked.
    if SPANS.notes:
        notes = SPANS.notes.pop(span_id, None)
        if notes is not None and notes.scope is not None:
            reset_current(notes.scope)
    if type(result) in _STREAMS:
        for listener in _listeners():
            listener.returned(span_id, result)
    elif "_embedding" in span_id:
        for listener in _listeners():
            listener.left_embedding(span_id, error)
    elif STRUCTURED in span_id or (_everywhere and SPANS.is_call(span_id)):
        for listener in _listeners():
            listener.left(span_id, result, error)


_TELL: Final[Mapping[type, Callable[[Listener, Any], None]]] = {
    LLMChatStartEvent: lambda listener, event: listener.begun(event.span_id),
    LLMCompletionStartEvent: lambda listener, event: listener.begun(event.span_id),
    LLMChatEndEvent: lambda listener, event: listener.ended(event.span_id, event.response, None),
    LLMCompletionEndEvent: lambda listener, event: listener.ended(
        event.span_id, event.response, None
    ),
    ExceptionEvent: lambda listener, event: listener.ended(event.span_id, None, event.exception),
    EmbeddingStartEvent: lambda listener, event: listener.embeds(
        event.span_id, event.id_, event.model_dict
    ),
    EmbeddingEndEvent: lambda listener, event: listener.embedded(event.span_id, event.chunks),
}
"""By an event's class, what those are told who hear all."""


class _ChunkHandler(BaseEventHandler):
    """Is told of the chunks of streams, and of starts and ends."""

    @classmethod
    def class_name(cls) -> str:
        return "llama_token_tracker"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if _is_chunk[type(event)]:
            chunk: Any = event
            for reference in _references:
                listener = reference()
                if listener is not None:
                    listener.chunk(chunk.span_id, chunk.response)
        elif _everywhere:
            tell = _TELL.get(type(event))
            if tell is not None and event.span_id is not None:
                for hearing in _alive(_everywhere):
                    tell(hearing, event)


_attaching: Final = fresh_in_children(threading.Lock())
_CHUNK_EVENTS: Final = (LLMChatInProgressEvent, LLMCompletionInProgressEvent)


class _IsChunk(dict[type, bool]):
    """Whether events of a class tell of chunks: pydantic's own `isinstance` takes long."""

    def __missing__(self, kind: type) -> bool:
        self[kind] = is_chunk = issubclass(kind, _CHUNK_EVENTS)
        return is_chunk


_is_chunk: Final = _IsChunk()
_span_handler: Final = _SpanHandler()
_chunk_handler: Final = _ChunkHandler()


def listen(listener: Listener, owner: object) -> None:
    """Tell `listener` of spans and chunks for as long as `owner` lives."""
    global _references, _everywhere
    with _attaching:
        alive = [known for known in _references if known() is not None]
        _references = (*alive, weakref.ref(listener))
        if listener.hears_all:
            _everywhere = (*_everywhere, _references[-1])
        _attach()
    # At exit nobody counts any more, and half of the interpreter is gone.
    weakref.finalize(owner, _leave, weakref.ref(listener)).atexit = False


def _leave(gone: weakref.ref[Listener]) -> None:
    """Note that somebody who listened is gone; a finalizer, so that it waits for no lock."""
    if _attaching.locked():
        soon(partial(_leave, gone))
        return
    # Whoever takes it in between waits for nobody; and nothing interrupts the taking, so that it's
    # given back for sure.
    with _attaching:
        _forget(gone)


def _forget(gone: weakref.ref[Listener]) -> None:
    global _references, _everywhere
    _references = tuple(
        [known for known in _references if known is not gone and known() is not None]
    )
    _everywhere = tuple([known for known in _everywhere if known in _references])
    if not _references:
        _detach()


def _tops() -> list[Any]:
    """The dispatchers that pass nothing on: the root, and whichever somebody has cut off."""
    return [dispatcher for dispatcher in _dispatchers() if not dispatcher.propagate]


def _dispatchers() -> list[Any]:
    # The root itself knows no manager.
    manager = get_dispatcher(__name__).manager
    return [get_dispatcher()] if manager is None else list(manager.dispatchers.values())


def _attach() -> None:
    for top in _tops():
        if not _holds(top.span_handlers, _span_handler):
            # A new list, because another thread may be walking the old one.
            top.span_handlers = [*top.span_handlers, _span_handler]
        if not _holds(top.event_handlers, _chunk_handler):
            top.event_handlers = [*top.event_handlers, _chunk_handler]


def _detach() -> None:
    for dispatcher in _dispatchers():
        if _holds(dispatcher.span_handlers, _span_handler):
            dispatcher.span_handlers = _without(dispatcher.span_handlers, _span_handler)
        if _holds(dispatcher.event_handlers, _chunk_handler):
            dispatcher.event_handlers = _without(dispatcher.event_handlers, _chunk_handler)
    SPANS.clear()


def _holds(handlers: list[Any], ours: object) -> bool:
    # By identity: to pydantic two empty handlers of one class are equal.
    return any(handler is ours for handler in handlers)


def _without(handlers: list[Any], ours: object) -> list[Any]:
    return [handler for handler in handlers if handler is not ours]


def is_attached() -> bool:
    """Whether the observer is on LlamaIndex's dispatcher now."""
    root: Any = get_dispatcher()
    return _holds(root.span_handlers, _span_handler)
