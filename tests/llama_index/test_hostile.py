"""Whatever a provider, a document or a tokenizer does, it never reaches the user's call."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
)
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.utils import get_tokenizer

from llama_token_tracker import TokenCountingHandler
from tests.scripted import EMBEDDING, LLM, words

# Drawn examples take their time.
pytestmark = pytest.mark.slow


class PanicException(BaseException):
    """What a panic in Rust code becomes in Python: no `Exception`."""


class Raises:
    """Raises whatever it's asked, but for what the tests' own library asks."""

    def __getattribute__(self, name: str) -> Any:
        """Refuse."""
        if name == "__class__" and not Raises.armed:
            return Raises
        raise RuntimeError(name)

    armed = False


@contextmanager
def armed() -> Iterator[None]:
    """Let nobody ask such an object anything."""
    Raises.armed = True
    try:
        yield
    finally:
        Raises.armed = False


class RaisesWhenRead:
    """Has attributes, texts, lengths and truths that raise."""

    def __getattr__(self, name: str) -> Any:
        """Refuse."""
        raise ZeroDivisionError(name)

    def __refuse(self, *_args: Any) -> Any:
        raise ZeroDivisionError

    __str__ = __repr__ = __len__ = __bool__ = __iter__ = __eq__ = __refuse
    __hash__ = object.__hash__


TEXTS = st.text(alphabet=st.characters(codec=None), max_size=12) | st.sampled_from(
    ["<|endoftext|>", "\ud800", " " * 100, "a\x00b", "\N{PILE OF POO}"]
)
COUNTS = st.one_of(
    st.integers(-5, 10**5),
    st.sampled_from([None, -1, 10**30, math.nan, math.inf, "12", "x", 3.5, True, [], {}]),
)
USAGES = st.dictionaries(
    st.sampled_from(
        [
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "inputTokens",
            "outputTokens",
            "cacheReadInputTokens",
            "inputTokenCount",
            "outputTokenCount",
            "promptTokenCount",
            "thoughts_token_count",
            "candidates_token_count",
            "prompt_eval_count",
            "eval_count",
        ]
    ),
    COUNTS,
    max_size=5,
)
# One for all examples: it makes another for whatever it's asked, keeps it, and takes its time.
MOCK = MagicMock()
ODD = st.one_of(
    st.sampled_from([Raises, RaisesWhenRead, SimpleNamespace, object]).map(lambda kind: kind()),
    st.just(MOCK),
)
RAWS = st.one_of(
    st.none(),
    TEXTS,
    COUNTS,
    ODD,
    USAGES,
    st.fixed_dictionaries({}, optional={"usage": USAGES | ODD | COUNTS, "message": ODD}),
    st.lists(st.fixed_dictionaries({"usage": USAGES}), max_size=3),
    st.builds(lambda usage: SimpleNamespace(usage=SimpleNamespace(**usage)), USAGES),
)
MESSAGES = st.builds(
    ChatMessage,
    role=st.sampled_from(MessageRole),
    content=TEXTS | st.none(),
    additional_kwargs=st.just({})
    | st.fixed_dictionaries({}, optional={"usage": USAGES, "tool_calls": st.lists(ODD | COUNTS)}),
)
KWARGS = st.just({}) | USAGES
RESPONSES = st.one_of(
    st.builds(ChatResponse, message=MESSAGES, raw=RAWS, additional_kwargs=KWARGS),
    st.builds(CompletionResponse, text=TEXTS, raw=RAWS, additional_kwargs=KWARGS),
    st.builds(SimpleNamespace, message=ODD, raw=RAWS),
    RAWS,
    ODD,
)
PROMPTS = st.one_of(TEXTS, st.lists(MESSAGES | ODD, max_size=3), ODD, st.none(), COUNTS)
ABOUT = st.one_of(
    st.none(),
    ODD,
    st.dictionaries(st.sampled_from(["class_name", "model", "model_name"]), TEXTS | ODD | COUNTS),
)
ERRORS = st.sampled_from(
    [OSError("cut"), GeneratorExit(), KeyboardInterrupt(), PanicException(), "text", Raises()]
)
PAYLOADS = st.one_of(
    st.none(),
    ODD,
    st.fixed_dictionaries(
        {},
        optional={
            EventPayload.PROMPT: PROMPTS,
            EventPayload.MESSAGES: PROMPTS,
            EventPayload.RESPONSE: RESPONSES,
            EventPayload.COMPLETION: RESPONSES,
            EventPayload.EXCEPTION: ERRORS,
            EventPayload.SERIALIZED: ABOUT,
            EventPayload.CHUNKS: st.lists(TEXTS | ODD, max_size=3) | ODD | COUNTS,
        },
    ),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["start", "end"]),
        st.sampled_from([LLM, EMBEDDING, CBEventType.QUERY]),
        PAYLOADS,
        st.sampled_from(["", "1", "2", "3"]),
    ),
    max_size=8,
)


def encode(text: str) -> list[int]:
    """The tokenizer of LlamaIndex's docs."""
    return get_tokenizer().func.__self__.encode(text)


def panic(text: str) -> list[int]:
    """A tokenizer that panics."""
    return breaking(text, PanicException())


def breaking(text: str, outcome: Any) -> Any:
    """Count what a handler tries a tokenizer with, and fail of all else."""
    if text == "Hello, world":
        return [text]
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


TOKENIZERS = st.sampled_from(
    [
        None,
        words,
        encode,
        panic,
        lambda text: breaking(text, 5),
        lambda text: breaking(text, ZeroDivisionError()),
        lambda text: breaking(text, None),
    ]
)
patient = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def check(handler: TokenCountingHandler) -> None:
    """Totals are the sums of the events, and none of them is negative."""
    calls, texts = handler.llm_token_counts, handler.embedding_token_counts
    assert handler.total_llm_token_count == sum(event.total_token_count for event in calls)
    assert handler.prompt_llm_token_count == sum(event.prompt_token_count for event in calls)
    assert handler.total_embedding_token_count == sum(event.total_token_count for event in texts)
    for event in [*calls, *texts]:
        assert type(event.prompt) is type(event.completion) is str
        assert min(event.prompt_token_count, event.completion_token_count) >= 0
        assert event.usage.input_tokens == event.prompt_token_count
        assert (event.usage.output_tokens or 0) == event.completion_token_count
    assert all(event.total_token_count == 0 for event in handler.failed_calls)


@patient
@given(EVENTS, TOKENIZERS, st.booleans())
def test_nothing_is_raised_into_a_call(events: list[Any], tokenizer: Any, keep_text: bool):
    """No payload whatever makes a handler raise, and its totals stay the sums of its events."""
    handler = TokenCountingHandler(tokenizer, keep_text=keep_text)
    with armed():
        for moment, event_type, payload, event_id in events:
            if moment == "start":
                assert handler.on_event_start(event_type, payload, event_id) == event_id
            else:
                handler.on_event_end(event_type, payload, event_id)
    check(handler)
    handler.reset_counts()
    check(handler)


@patient
@given(st.lists(st.tuples(PROMPTS, RESPONSES), max_size=4), TOKENIZERS)
def test_every_call_is_an_event(listed: list[Any], tokenizer: Any):
    """However odd prompt and answer are, an answered call is one event."""
    handler = TokenCountingHandler(tokenizer)
    for number, (prompt, response) in enumerate(listed):
        payload, event_id = {EventPayload.MESSAGES: prompt}, str(number)
        with armed():
            handler.on_event_start(LLM, payload, event_id)
            handler.on_event_end(LLM, {**payload, EventPayload.RESPONSE: response}, event_id)
        assert len(handler.llm_token_counts) == number + 1
    check(handler)
    assert handler.open_calls == 0


@patient
@given(st.lists(RESPONSES, max_size=4), RESPONSES)
def test_chunks_may_be_anything(chunks: list[Any], last: Any):
    """Whatever passes through a stream, it ends as one event."""
    handler = TokenCountingHandler()
    with armed():
        handler.on_event_start(LLM, {EventPayload.PROMPT: "hello"}, event_id="1")
        calls = handler._recorder.calls
        calls._by_span["span"] = calls.by_id["1"]
        for chunk in chunks:
            calls.chunk("span", chunk)
        handler.on_event_end(LLM, {EventPayload.COMPLETION: last}, event_id="1")
    assert len(handler.llm_token_counts) == 1
    check(handler)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_leaving_is_not_swallowed(error: type[BaseException]):
    """Ctrl-C in a tokenizer ends the program, as it should."""

    def tokenizer(text: str) -> list[str]:
        return breaking(text, error())

    handler = TokenCountingHandler(tokenizer)
    handler.on_event_end(LLM, {EventPayload.PROMPT: "a"}, event_id="1")
    with pytest.raises(error):
        _ = handler.total_llm_token_count


def test_a_megabyte_of_one_letter():
    """A document that breaks tokenizers is counted or estimated."""
    handler = TokenCountingHandler()
    handler.on_event_end(
        LLM,
        {EventPayload.PROMPT: " " * 10**6, EventPayload.COMPLETION: CompletionResponse(text="a")},
        event_id="1",
    )
    (event,) = handler.llm_token_counts
    assert event.prompt_token_count > 0
    check(handler)
