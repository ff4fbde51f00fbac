"""What this handler says beyond LlamaIndex's own."""

import gc
import logging
import weakref
from typing import Any

import pytest
import tiktoken
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.callbacks import CallbackManager, EventPayload
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.utilities.token_counting import TokenCounter

from llama_token_tracker import TokenCountingHandler, Usage
from tests.scripted import (
    EMBEDDING,
    HELLO,
    LLM,
    Scripted,
    answer,
    by_hand,
    counted,
    figures,
    reported,
    words,
)

CACHED = {
    "usage": {
        "input_tokens": 3,
        "output_tokens": 50,
        "cache_read_input_tokens": 21_400,
        "cache_creation_input_tokens": 100,
    }
}


def test_an_event_tells_all_that_is_known():
    """Usage, sources, status, operation, provider, model, times and ids are in one place."""
    handler = TokenCountingHandler()
    about = {"class_name": "Anthropic_LLM", "model": "claude"}
    handler.on_event_start(
        LLM, {EventPayload.MESSAGES: HELLO, EventPayload.SERIALIZED: about}, event_id="1"
    )
    by_hand(handler, answer("hi", CACHED), HELLO, start=False)
    (event,) = handler.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (21_503, 50)
    assert event.usage == Usage(
        input_tokens=21_503, output_tokens=50, cache_read_tokens=21_400, cache_write_tokens=100
    )
    assert (event.source, event.status, event.operation) == ("reported", "complete", "chat")
    assert (event.provider, event.model) == ("anthropic", "claude")
    assert (event.event_id, event.inner_event_id) == ("1", "1")
    assert event.duration_s is not None
    assert event.duration_s >= 0
    assert event.started_at is not None


@pytest.mark.parametrize(
    ("about", "provider", "model"),
    [
        ({"class_name": "Bedrock_Converse_LLM", "model": "m"}, "aws.bedrock", "m"),
        ({"class_name": "openai_llm", "model_name": "gpt", "model": "x"}, "openai", "gpt"),
        ({"class_name": "custom", "model_name": "unknown"}, None, None),
        ({"class_name": ["odd"], "model": 5}, None, None),
        ({}, None, None),
        (None, None, None),
        ("odd", None, None),
    ],
)
def test_provider_and_model_come_from_the_start(about: object, provider: str, model: str):
    """What the start doesn't tell is unknown, and never guessed."""
    handler = TokenCountingHandler()
    payload = {EventPayload.PROMPT: "hello", EventPayload.SERIALIZED: about}
    handler.on_event_start(LLM, payload, event_id="1")
    by_hand(handler, CompletionResponse(text="hi", raw=reported(1, 1)), start=False)
    (event,) = handler.llm_token_counts
    assert (event.provider, event.model) == (provider, model)


def test_a_reported_zero_is_not_replaced():
    """An answer of no tokens is an answer of no tokens."""
    handler = TokenCountingHandler()
    by_hand(handler, answer("", reported(12, 0)), HELLO)
    assert figures(handler) == [(12, 0)]
    assert handler.llm_token_counts[0].source == "reported"


def test_half_a_report_is_completed():
    """What a provider leaves out is counted, and each half says where it comes from."""
    handler = TokenCountingHandler(tokenizer=words)
    by_hand(handler, answer("one two three", {"usage": {"prompt_tokens": 12}}), HELLO)
    (event,) = handler.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (12, 3)
    assert (event.prompt_source, event.completion_source) == ("reported", "counted")
    assert event.usage == Usage(input_tokens=12, output_tokens=3)
    assert event.source == "counted"


def test_a_custom_tokenizer_counts_messages_too():
    """Role, text and three tokens for each message, by the tokenizer that was given."""
    handler = TokenCountingHandler(tokenizer=words)
    by_hand(handler, answer("one two"), [ChatMessage("a b c"), ChatMessage("d")])
    assert figures(handler) == [(12, 2)]
    (event,) = handler.llm_token_counts
    # What an unknown model adds to each message is a guess, whoever counts the words.
    assert (event.prompt_source, event.completion_source) == ("estimated", "counted")


def test_embedded_texts_are_counted():
    """Each text is an event, with its model, and marked as what it is."""
    handler = TokenCountingHandler(tokenizer=words)
    model = MockEmbedding(embed_dim=2, callback_manager=CallbackManager([handler]))
    model.get_text_embedding_batch(["one two", "three"])
    events = handler.embedding_token_counts
    assert [event.prompt_token_count for event in events] == [2, 1]
    assert {event.operation for event in events} == {"embedding"}
    assert {event.source for event in events} == {"counted"}
    assert handler.llm_token_counts == []


def test_an_embedding_that_fails_leaves_nothing_open():
    """A provider of embeddings that refuses costs nothing."""

    class Refusing(MockEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            raise ConnectionRefusedError

    handler = TokenCountingHandler()
    model = Refusing(embed_dim=2, callback_manager=CallbackManager([handler]))
    with pytest.raises(ConnectionRefusedError):
        model.get_query_embedding("a")
    assert handler.embedding_token_counts == []
    assert handler.open_calls == 0


def test_lists_can_be_bounded():
    """`max_events` keeps the newest of each list, and the totals keep all."""
    handler = TokenCountingHandler(max_events=2, tokenizer=words)
    for number in range(5):
        by_hand(handler, answer("hi", reported(number + 1, 1)), HELLO, event_id=str(number))
    handler.on_event_end(EMBEDDING, {EventPayload.CHUNKS: ["a", "b", "c"]})
    assert figures(handler) == [(4, 1), (5, 1)]
    assert handler.prompt_llm_token_count == 15
    assert len(handler.embedding_token_counts) == 2
    assert handler.total_embedding_token_count == 3


def test_texts_can_be_dropped():
    """`keep_text=False` keeps figures alone, whichever way they were come by."""
    handler = TokenCountingHandler(keep_text=False, tokenizer=words)
    by_hand(handler, answer("hi", reported(5, 1)), HELLO, event_id="1")
    by_hand(handler, CompletionResponse(text="one two"), "hello", event_id="2")
    handler.on_event_end(EMBEDDING, {EventPayload.CHUNKS: ["a b"]})
    events = [*handler.llm_token_counts, *handler.embedding_token_counts]
    assert {(event.prompt, event.completion) for event in events} == {("", "")}
    assert [event.total_token_count for event in events] == [6, 3, 2]


def test_a_failed_call_is_told_apart():
    """It is in `failed_calls`, with its prompt and no tokens, and listed if asked for."""
    for include in (False, True):
        handler = TokenCountingHandler(include_failed=include)
        handler.on_event_start(LLM, {EventPayload.PROMPT: "hello"}, event_id="1")
        handler.on_event_end(
            LLM, {EventPayload.EXCEPTION: ConnectionRefusedError("no")}, event_id="1"
        )
        (failed,) = handler.failed_calls
        assert (failed.prompt, failed.total_token_count, failed.status) == ("hello", 0, "failed")
        assert handler.llm_token_counts == ([failed] if include else [])
        assert handler.total_llm_token_count == 0


def test_a_failed_call_is_not_printed(capsys: pytest.CaptureFixture[str]):
    """`verbose` tells what was used: a refused call used nothing."""
    handler = TokenCountingHandler(verbose=True)
    handler.on_event_start(LLM, {EventPayload.PROMPT: "hello"}, event_id="1")
    handler.on_event_end(LLM, {EventPayload.EXCEPTION: ConnectionRefusedError()}, event_id="1")
    assert capsys.readouterr().out == ""


def test_the_prompt_is_the_one_that_was_sent():
    """A list of messages that grows while a call runs is recorded as it was at the start."""
    handler = TokenCountingHandler()
    messages = list(HELLO)
    handler.on_event_start(LLM, {EventPayload.MESSAGES: messages}, event_id="1")
    messages.append(ChatMessage("later"))
    by_hand(handler, answer("hi", reported(1, 1)), messages, start=False)
    assert handler.llm_token_counts[0].prompt == "user: hello"


def test_the_tokenizer_can_be_changed():
    """Setting `tokenizer` is setting it for all that follows."""
    handler = TokenCountingHandler()
    handler.tokenizer = words
    by_hand(handler, CompletionResponse(text="one two"), "three four five")
    assert figures(handler) == [(3, 2)]
    assert handler.tokenizer is words


def test_subclasses_find_llamaindexs_counter():
    """`_token_counter` is there for those who use it."""
    counter = TokenCountingHandler(tokenizer=words)._token_counter
    assert isinstance(counter, TokenCounter)
    assert counter.get_string_tokens("one two") == 2


def test_special_tokens_with_the_documented_tokenizer():
    """`tiktoken.encoding_for_model(…).encode` and a document that says `<|endoftext|>`."""
    TokenCountingHandler().tokenizer("loads LlamaIndex's own vocabulary")
    encode = tiktoken.get_encoding("cl100k_base").encode
    handler = TokenCountingHandler(tokenizer=encode)
    model = MockLLM(callback_manager=CallbackManager([handler]))
    model.complete("What is <|endoftext|>?")
    (event,) = handler.llm_token_counts
    assert event.prompt_token_count == len(encode("What is <|endoftext|>?", disallowed_special=()))
    assert event.source == "counted"


def test_a_call_that_could_not_be_counted_is_said(caplog: pytest.LogCaptureFixture):
    """What goes wrong in counting is a warning, and no exception."""
    handler = TokenCountingHandler(tokenizer=lambda text: [5 / (text == "Hello, world")])
    by_hand(handler, CompletionResponse(text="one two"), "hello")
    (event,) = handler.llm_token_counts
    assert event.source == "estimated"
    assert event.total_token_count > 0
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}


def test_totals_by_kind():
    """The tracker splits the totals by operation, provider, model, source and status."""
    handler, model = counted(raw=reported(100, 20), raws=[None, None])
    model.complete("hello")
    stream = model.stream_complete("hello")
    next(stream)
    stream.close()
    totals = handler.tracker.totals()
    assert {(kind.source, kind.status, total.calls) for kind, total in totals.items()} == {
        ("reported", "complete", 1),
        ("estimated", "abandoned", 1),
    }


def test_a_handler_that_only_lived_in_a_manager_dies_with_it():
    """Nothing but the user holds a handler."""
    manager = CallbackManager([TokenCountingHandler()])
    weak = weakref.ref(manager.handlers[0])
    model: Any = Scripted(callback_manager=manager, raw=reported(1, 1))
    model.chat(HELLO)
    del manager, model
    gc.collect()
    assert weak() is None


@pytest.mark.parametrize("key", [EventPayload.RESPONSE, EventPayload.COMPLETION])
def test_either_key_holds_the_answer(key: EventPayload):
    """A chat's response and a completion are answers, whichever key they come under."""
    handler = TokenCountingHandler()
    response = ChatResponse(message=ChatMessage("hi"), raw=reported(5, 2))
    handler.on_event_end(LLM, {EventPayload.PROMPT: "hello", key: response}, event_id="1")
    assert figures(handler) == [(5, 2)]
