"""Calls that no provider spoke of: counted once, late, and by the model's own tokenizer."""

import asyncio
import pickle
import threading
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.callbacks import CBEventType, EventPayload

from llama_token_tracker import TokenCountingHandler, TokenizerError, count_tokens
from llama_token_tracker._background import WORKER
from llama_token_tracker.extraction.parts import Message, Tool
from llama_token_tracker.tokenizers import count_messages
from llama_token_tracker.tracking import pending

OPENAI = {"class_name": "openai_llm", "model": "gpt-4o"}


class Words:
    """Counts words, and how often it was asked for each text."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: set[str] = set()

    def __call__(self, text: str) -> list[str]:
        """Give the words."""
        self.asked.append(text)
        self.threads.add(threading.current_thread().name)
        return text.split()


def chat(
    handler: TokenCountingHandler,
    prompt: str = "one two three",
    answer: str = "four five",
    about: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """A chat whose provider reports nothing."""
    message = ChatMessage(role="user", content=prompt)
    start = {
        EventPayload.MESSAGES: [message],
        EventPayload.SERIALIZED: about or {},
        EventPayload.ADDITIONAL_KWARGS: options,
    }
    event_id = str(id(start))
    handler.on_event_start(CBEventType.LLM, start, event_id=event_id)
    said = ChatResponse(message=ChatMessage(role="assistant", content=answer))
    handler.on_event_end(CBEventType.LLM, {EventPayload.RESPONSE: said}, event_id=event_id)


@pytest.fixture
def words() -> Words:
    """A tokenizer that keeps a list."""
    return Words()


@pytest.fixture
def handler(words: Words) -> TokenCountingHandler:
    """A handler with that tokenizer, which was tried once already."""
    handler = TokenCountingHandler(tokenizer=words)
    words.asked.clear()
    return handler


READERS = {
    "total": lambda handler: handler.total_llm_token_count,
    "list": lambda handler: handler.llm_token_counts[0].total_token_count,
    "length": lambda handler: len(handler.llm_token_counts),
    "totals": lambda handler: handler.tracker.totals(),
    "usage": lambda handler: handler.tracker.usage,
    "pickle": lambda handler: pickle.dumps(handler.tracker),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_nothing_is_counted_before_it_is_read(read: Any, handler: Any, words: Words):
    """Recording leaves the tokenizer alone; the first figure that is read counts all."""
    chat(handler)
    assert words.asked == []
    read(handler)
    assert sorted(words.asked) == ["four five", "one two three", "user"]
    assert handler.total_llm_token_count == 1 + 3 + 3 + 2


def test_a_text_is_counted_once(handler: TokenCountingHandler, words: Words):
    """However often a text comes, the tokenizer sees it once."""
    for _ in range(5):
        chat(handler)
        assert handler.total_llm_token_count
    assert len(words.asked) == 3
    assert handler.total_llm_token_count == 5 * 9


def test_a_budget_reads_the_figure(words: Words):
    """A budget needs the count at once."""
    handler = TokenCountingHandler(tokenizer=words, token_budget=5)
    with pytest.raises(ValueError, match="Current: 9"):
        chat(handler)


def test_what_a_message_becomes_later_is_not_counted(handler: TokenCountingHandler):
    """The prompt is counted as it was sent."""
    message = ChatMessage(role="user", content="one two three")
    start = {EventPayload.MESSAGES: [message], EventPayload.SERIALIZED: {}}
    handler.on_event_start(CBEventType.LLM, start, event_id="a")
    handler.on_event_end(CBEventType.LLM, {EventPayload.COMPLETION: None}, event_id="a")
    message.blocks[0].text = "one"
    assert handler.prompt_llm_token_count == 3 + 1 + 3


def test_order_is_that_of_the_calls(handler: TokenCountingHandler):
    """Calls that report and calls that don't are listed as they ended."""
    usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 1}}
    for number in range(6):
        if number % 2:
            chat(handler, answer=f"{number}")
        else:
            said = ChatResponse(message=ChatMessage(content=f"{number}"), raw=usage)
            handler.on_event_end(CBEventType.LLM, {EventPayload.RESPONSE: said}, event_id="b")
    answers = [event.completion.rpartition(" ")[2] for event in handler.llm_token_counts]
    assert answers == ["0", "1", "2", "3", "4", "5"]
    assert handler.total_llm_token_count == 3 * 101 + 3 * 8


def test_texts_that_pile_up_are_counted_in_the_background(
    handler: TokenCountingHandler, words: Words, monkeypatch: pytest.MonkeyPatch
):
    """Beyond a bound, one thread counts them, and it ends when there is nothing left to do."""
    monkeypatch.setattr(pending, "MAX_HELD_BYTES", 2_000)

    async def many() -> None:
        for number in range(50):
            chat(handler, prompt=f"{number} two three")

    asyncio.run(many())
    for thread in threading.enumerate():
        if thread.name == "llama-token-tracker":
            thread.join(10)
    assert words.threads - {threading.main_thread().name} == {"llama-token-tracker"}
    assert "llama-token-tracker" not in {thread.name for thread in threading.enumerate()}
    assert len([text for text in words.asked if text.endswith("two three")]) > 0
    assert handler.total_llm_token_count == 50 * 9


LONG = "long " * 8_000
USAGE = {"usage": {"prompt_tokens": 20_011, "completion_tokens": 3}}


@pytest.mark.parametrize("raw", [None, USAGE], ids=["silent", "reported"])
@pytest.mark.parametrize(
    "prompt",
    [LONG, [LONG], [LONG, "short", "short"], ["short", LONG, "short"], ["short", "short", LONG]],
    ids=["completion", "chat", "first", "middle", "last"],
)
def test_long_prompts_that_wait_are_bounded(
    prompt: str | list[str], raw: Any, monkeypatch: pytest.MonkeyPatch
):
    """A prompt is held until it's counted: soon, if it's long, wherever its length stands."""
    monkeypatch.setattr(pending, "MAX_HELD_BYTES", 100_000)
    asked: list[object] = []
    monkeypatch.setattr(WORKER, "ask", asked.append)
    handler = TokenCountingHandler(keep_text=False)
    messages = [ChatMessage(role="user", content=text) for text in prompt]
    start: dict[str, Any] = {EventPayload.MESSAGES: messages}
    answer = ChatMessage(role="assistant", content="yes")
    end: dict[str, Any] = {EventPayload.RESPONSE: ChatResponse(message=answer, raw=raw)}
    if isinstance(prompt, str):
        start = {EventPayload.PROMPT: prompt}
        end = {EventPayload.COMPLETION: CompletionResponse(text="yes", raw=raw)}
    start[EventPayload.SERIALIZED] = {}
    for event_id in ("1", "2", "3"):
        assert asked == []
        handler.on_event_start(CBEventType.LLM, start, event_id=event_id)
        handler.on_event_end(CBEventType.LLM, end, event_id=event_id)
    assert asked == [handler.tracker.catch_up]


def test_recording_starts_no_thread(handler: TokenCountingHandler):
    """Below the bound nothing is started, not even in a running event loop."""
    threads = threading.active_count()

    async def few() -> None:
        for _ in range(10):
            chat(handler)
        assert threading.active_count() == threads

    asyncio.run(few())


def test_threads_that_record_and_read_agree(handler: TokenCountingHandler):
    """No call is lost or counted twice, whoever counts it."""

    def work() -> None:
        for number in range(50):
            chat(handler, prompt=f"{number} two three")
            if number % 7 == 0:
                assert handler.total_llm_token_count % 9 == 0

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert handler.total_llm_token_count == 4 * 50 * 9
    assert len(handler.llm_token_counts) == 200


def test_texts_that_are_not_kept_are_counted_all_the_same(words: Words):
    """`keep_text=False` drops the texts, not their tokens."""
    handler = TokenCountingHandler(tokenizer=words, keep_text=False, max_events=1)
    chat(handler)
    chat(handler)
    [event] = handler.llm_token_counts
    assert (event.prompt, event.completion) == ("", "")
    assert handler.total_llm_token_count == 2 * 9


def test_a_model_is_counted_with_its_own_tokenizer():
    """The start event names the model; tools are counted as it bills them."""
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
    handler = TokenCountingHandler()
    chat(handler, "Hello, world!", "你好世界", OPENAI)
    chat(handler, "Hello, world!", "你好世界", OPENAI, tools=[tool])
    first, second = handler.llm_token_counts
    prompt = [Message.of("user", "Hello, world!")]
    expected = count_messages(prompt, model="gpt-4o")
    assert (first.prompt_token_count, first.prompt_source) == (expected.tokens, "counted")
    assert first.completion_token_count == count_tokens("你好世界", model="gpt-4o")
    assert first.completion_source == "counted"
    with_tool = count_messages(prompt, model="gpt-4o", tools=[Tool("f", "d")])
    assert second.prompt_token_count == with_tool.tokens > expected.tokens


def test_embeddings_are_counted_with_the_models_own_tokenizer():
    """One event a text, by the embedding model's name."""
    handler = TokenCountingHandler()
    about = {"class_name": "OpenAIEmbedding", "model_name": "text-embedding-3-small"}
    handler.on_event_start(CBEventType.EMBEDDING, {EventPayload.SERIALIZED: about}, event_id="a")
    handler.on_event_end(
        CBEventType.EMBEDDING, {EventPayload.CHUNKS: ["Hello, world!", "Hi"]}, event_id="a"
    )
    assert handler.total_embedding_token_count == 5
    assert [event.source for event in handler.embedding_token_counts] == ["counted"] * 2


def test_an_unknown_model_is_estimated():
    """Without a name there is only the stand-in, as in LlamaIndex."""
    handler = TokenCountingHandler()
    chat(handler, "Hello, world!", "Hi")
    [event] = handler.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (3 + 1 + 4, 1)
    assert event.source == "estimated"


@pytest.mark.parametrize("wrong", [5, "no-such-file.json", lambda text: 5, {}])
def test_a_wrong_tokenizer_is_refused_at_once(wrong: object):
    """What can't count is told where it is given."""
    with pytest.raises(TokenizerError):
        TokenCountingHandler(tokenizer=wrong)  # type: ignore[arg-type]


def test_the_given_tokenizer_can_be_read_and_replaced(handler: TokenCountingHandler, words: Words):
    """As in LlamaIndex, `tokenizer` is what was given, and may be changed."""
    assert handler.tokenizer is words
    handler.tokenizer = lambda text: list(text)
    chat(handler, "ab", "c")
    assert handler.total_llm_token_count == 3 + 4 + 2 + 1
