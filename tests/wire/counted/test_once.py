"""An answer that another call hands on is counted once, also where no context tells who asked."""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import boto3
import httpx
import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, LLMMetadata
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback

from llama_token_tracker import TokenCountingHandler, Tracker, watch
from llama_token_tracker.testing import LoopbackProvider
from llama_token_tracker.testing.clients import arguments
from llama_token_tracker.tracking.answers import KnownAnswers
from llama_token_tracker.wire import WatchingTransport
from tests.canned import canned
from tests.needs import needs
from tests.wire.counted.test_counted import CHAT

GPT, CLAUDE_ON_AWS = "gpt-4o", "anthropic.claude-3-haiku-20240307-v1:0"
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
PROMPT = "What is the capital of Australia?"

Within: Any = Callable[[Callable[[], Any]], Any]
"""Calls a function elsewhere, and waits for it."""


def in_executor(ask: Callable[[], Any]) -> Any:
    """In a pool of threads, which know no context."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def in_thread(ask: Callable[[], Any]) -> Any:
    """In a thread."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()
    thread.join()
    return found[0]


def in_loops_executor(ask: Callable[[], Any]) -> Any:
    """By an event loop."""

    async def wait() -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, ask)

    return asyncio.run(wait())


def in_to_thread(ask: Callable[[], Any]) -> Any:
    """By an event loop that hands its context on."""

    async def wait() -> Any:
        return await asyncio.to_thread(ask)

    return asyncio.run(wait())


ELSEWHERE = [in_executor, in_thread, in_loops_executor, in_to_thread]


class Outer(CustomLLM):
    """Asks elsewhere, and hands the answer on."""

    elsewhere: Any
    ask: Any
    copies: bool = False

    @property
    def metadata(self) -> LLMMetadata:
        """Some model."""
        return LLMMetadata(model_name=GPT)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Ask elsewhere."""
        raw = self.elsewhere(lambda: self.ask(prompt))
        return CompletionResponse(text="Canberra", raw=dict(raw) if self.copies else raw)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Ask elsewhere, and give it back in one piece."""
        raw = self.elsewhere(lambda: self.ask(prompt))

        def pieces() -> Any:
            yield CompletionResponse(text="Canberra", delta="Canberra", raw=raw)

        return pieces()


def _inner(given: dict[str, Any], manager: CallbackManager) -> Any:
    from llama_index.llms.openai import OpenAI

    return OpenAI(
        model=GPT,
        api_base=given["base_url"],
        api_key="none",
        max_retries=0,
        callback_manager=manager,
    )


def _billed(server: LoopbackProvider) -> int:
    return sum(usage.total_tokens or 0 for usage in server.billed)


@pytest.fixture
def given(server: LoopbackProvider) -> dict[str, Any]:
    """What OpenAI's clients are made with."""
    server.reset()
    return arguments(server.url(), "openai")


@pytest.mark.parametrize("way", ["complete", "stream_complete"])
@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_model_that_asks_another_elsewhere(
    elsewhere: Any, way: str, given: dict[str, Any], server: LoopbackProvider
):
    """One response is one event."""
    handler = TokenCountingHandler()
    manager = CallbackManager([handler])
    inner = _inner(given, manager)
    outer = Outer(
        elsewhere=elsewhere,
        ask=lambda prompt: inner.chat([ChatMessage(prompt)]).raw,
        callback_manager=manager,
    )
    for number in (1, 2):
        answer = getattr(outer, way)(PROMPT)
        if way != "complete":
            list(answer)
        assert len(handler.llm_token_counts) == number
    assert handler.total_llm_token_count == _billed(server)
    assert {event.source for event in handler.llm_token_counts} == {"reported"}


@pytest.mark.parametrize("name", ["chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG", str(uuid4())])
@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_an_answer_is_known_by_its_id(elsewhere: Any, name: str):
    """As a copy of its fields is."""
    handler = TokenCountingHandler()
    manager = CallbackManager([handler])
    with canned({**CHAT, "id": name, "usage": USAGE}) as url:
        inner = _inner({"base_url": url + "/v1"}, manager)
        Outer(
            elsewhere=elsewhere,
            ask=lambda prompt: inner.chat([ChatMessage(prompt)]).raw,
            copies=True,
            callback_manager=manager,
        ).complete(PROMPT)
    assert [event.total_token_count for event in handler.llm_token_counts] == [110]


def _converse(client: Any, prompt: str) -> Any:
    asked = [{"role": "user", "content": [{"text": prompt}]}]
    return client.converse(modelId=CLAUDE_ON_AWS, messages=asked)


def _invoke(client: Any, prompt: str) -> Any:
    asked = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 9}
    return json.loads(
        client.invoke_model(modelId=CLAUDE_ON_AWS, body=json.dumps(asked))["body"].read()
    )


@pytest.mark.parametrize("ask", [_converse, _invoke])
@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_watched_client_of_boto3_asks_elsewhere(
    elsewhere: Any, ask: Any, server: LoopbackProvider
):
    """AWS names its requests as well."""
    server.reset()
    handler = TokenCountingHandler()
    client = boto3.client("bedrock-runtime", **server.arguments("bedrock"))
    with watch(handler, client):
        outer = Outer(
            elsewhere=elsewhere,
            ask=lambda prompt: ask(client, prompt),
            callback_manager=CallbackManager([handler]),
        )
        outer.complete(PROMPT)
        outer.complete(PROMPT)
    assert len(handler.llm_token_counts) == 2
    assert handler.total_llm_token_count == _billed(server)
    assert {event.source for event in handler.llm_token_counts} == {"reported"}


@pytest.mark.parametrize("ask", [_converse, _invoke])
def test_answers_are_remembered_while_a_call_is_open_that_may_hand_them_on(
    ask: Any, server: LoopbackProvider
):
    """Whoever asks without a framework doesn't pay for that."""
    handler = TokenCountingHandler()
    client = boto3.client("bedrock-runtime", **server.arguments("bedrock"))
    with watch(handler, client):
        ask(client, PROMPT)
        assert len(handler.tracker.answers) == 0
        outer = Outer(
            elsewhere=in_thread,
            ask=lambda prompt: ask(client, prompt),
            callback_manager=CallbackManager([handler]),
        )
        outer.complete(PROMPT)
        known = len(handler.tracker.answers)
        assert known > 0
        ask(client, PROMPT)
    assert len(handler.tracker.answers) == known
    assert len(handler.llm_token_counts) == 3


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_watched_client_asks_elsewhere(elsewhere: Any):
    """What the wire has told already isn't told again by the call that hands it on."""
    handler = TokenCountingHandler()
    sender = httpx.Client(transport=WatchingTransport(handler))
    with canned({**CHAT, "id": f"chatcmpl-{uuid4().hex}", "usage": USAGE}) as url:
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", http_client=sender)
        outer = Outer(
            elsewhere=elsewhere,
            ask=lambda prompt: client.chat.completions.create(
                model=GPT, messages=[{"role": "user", "content": prompt}]
            ),
            callback_manager=CallbackManager([handler]),
        )
        outer.complete(PROMPT)
    assert [event.total_token_count for event in handler.llm_token_counts] == [110]


@needs("langchain_openai")
@pytest.mark.parametrize("elsewhere", [in_executor, in_thread, in_loops_executor])
def test_a_chat_model_of_langchain_asks_another_elsewhere(
    elsewhere: Any, given: dict[str, Any], server: LoopbackProvider
):
    """The same of LangChain's runs."""
    from langchain_core.language_models import BaseChatModel
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_openai import ChatOpenAI

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    handler = TokenCountingCallbackHandler()
    config: Any = {"callbacks": [handler]}
    inner = ChatOpenAI(model=GPT, **given)

    class Asking(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "asking"

        def _generate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
            answer = elsewhere(lambda: inner.invoke(messages, config))
            return ChatResult(generations=[ChatGeneration(message=answer)])

    Asking().invoke(PROMPT, config)
    Asking().invoke(PROMPT, config)
    assert handler.total_tokens == _billed(server)
    assert len(handler.llm_token_counts) == 2


@pytest.mark.parametrize(
    "name", ["chatcmpl-0", "", "chatcmpl-123", "chatcmpl-00000000000000000000"]
)
def test_honest_calls_whose_provider_repeats_an_id_are_two(name: str):
    """Side by side, and one within the time of the other, as some local servers answer."""
    handler = TokenCountingHandler()
    manager = CallbackManager([handler])
    with canned({**CHAT, "id": name, "usage": USAGE}) as url:
        inner = _inner({"base_url": url + "/v1"}, manager)

        def ask_twice(prompt: str) -> Any:
            inner.chat([ChatMessage(prompt)])
            # Of its own, and not counted by anybody but who hands it on.
            plain = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
            return plain.chat.completions.create(
                model=GPT, messages=[{"role": "user", "content": prompt}]
            )

        Outer(elsewhere=in_executor, ask=ask_twice, callback_manager=manager).complete(PROMPT)
    assert [event.total_token_count for event in handler.llm_token_counts] == [110, 110]


def _openai(url: str, manager: CallbackManager) -> Any:
    return _inner({"base_url": url + "/v1"}, manager)


def _ollama(url: str, manager: CallbackManager) -> Any:
    from llama_index.llms.ollama import Ollama

    return Ollama(model="llama3", base_url=url, context_window=8_192, callback_manager=manager)


def _anthropic(url: str, manager: CallbackManager) -> Any:
    from llama_index.llms.anthropic import Anthropic

    return Anthropic(
        model="claude-3-5-haiku-latest", base_url=url, api_key="none", callback_manager=manager
    )


OLLAMA = {
    "model": "llama3",
    "created_at": "2026-05-04T03:02:01.987654321Z",
    "message": {"role": "assistant", "content": "Canberra"},
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 7_013,
    "eval_count": 131,
}
CLAUDE = {
    "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
    "type": "message",
    "role": "assistant",
    "model": "claude-3-5-haiku-20241022",
    "content": [{"type": "text", "text": "Canberra"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 7_013, "output_tokens": 131},
}
GPTS = {
    **CHAT,
    "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
    "usage": {"prompt_tokens": 7_013, "completion_tokens": 131, "total_tokens": 7_144},
}


@pytest.mark.parametrize(
    ("module", "make", "answer"),
    [
        pytest.param("openai", _openai, GPTS, id="openai"),
        pytest.param("ollama", _ollama, OLLAMA, id="ollama"),
        pytest.param("anthropic", _anthropic, CLAUDE, id="anthropic"),
    ],
)
@pytest.mark.parametrize("watches", [False, True])
def test_no_call_is_lost_to_a_server_that_gives_every_answer_one_id(
    module: str, make: Any, answer: dict[str, Any], watches: bool
):
    """Of many threads, each with calls that begin and end within others'."""
    pytest.importorskip(f"llama_index.llms.{module}")
    handler = TokenCountingHandler(watch=watches)
    manager = CallbackManager([handler])
    threads, times = 8, 5
    with canned(answer) as url:
        model = make(url, manager)
        ready = threading.Barrier(threads)

        def ask(_: int) -> None:
            ready.wait()
            for _ in range(times):
                model.chat([ChatMessage(PROMPT)])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(ask, range(threads)))
    if handler.watching is not None:
        handler.watching.stop()
    assert len(handler.llm_token_counts) == threads * times
    assert handler.total_llm_token_count == threads * times * 7_144


def test_a_call_that_has_sent_its_own_request_hands_on_nobodys_answer():
    """Though a client of the program's own got an answer of the same id meanwhile."""
    from llama_index.llms.openai import OpenAI

    handler = TokenCountingHandler()
    with canned(GPTS) as url, watch(handler):
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        began, told = threading.Event(), threading.Event()

        def ask_meanwhile() -> None:
            began.wait(10)
            client.chat.completions.create(
                model=GPT, messages=[{"role": "user", "content": PROMPT}]
            )
            told.set()

        def hold(_: httpx.Request) -> None:
            began.set()
            told.wait(10)

        slow = httpx.Client(event_hooks={"request": [hold]})
        own = OpenAI(
            model=GPT,
            api_base=url + "/v1",
            api_key="none",
            max_retries=0,
            http_client=slow,
            callback_manager=CallbackManager([handler]),
        )
        thread = threading.Thread(target=ask_meanwhile)
        thread.start()
        own.chat([ChatMessage(PROMPT)])
        thread.join()
    assert [event.total_token_count for event in handler.llm_token_counts] == [7_144, 7_144]


def test_an_id_that_has_come_twice_proves_nothing():
    """However long it is."""
    answers = KnownAnswers()
    answer = {"id": "chatcmpl-abcdefghijklmnop"}
    in_thread(lambda: answers.note(answer, 2.0, "OpenAI"))
    assert answers.has(answer, 1.0, "Asking")
    assert not answers.has(answer, 1.0, "OpenAI")
    in_thread(lambda: answers.note(answer, 3.0, "OpenAI"))
    assert not answers.has(answer, 1.0, "Asking")


def test_few_answers_are_remembered():
    """However many are told."""
    tracker = Tracker()
    for number in range(2_000):
        tracker.answers.note({"id": f"chatcmpl-abcdefghijkl{number}"}, 1.0, "OpenAI")
        tracker.answers.note(Tracker(), 1.0, "OpenAI")
    assert len(tracker.answers) <= 256
