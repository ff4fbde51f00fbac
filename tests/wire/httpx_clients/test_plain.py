"""Programs without any framework: the SDKs of seven providers, with a watched HTTP client."""

import asyncio
import gc
import pickle
from collections.abc import Callable
from importlib import import_module
from typing import Any

import httpx
import pytest

from llama_token_tracker import (
    Budget,
    BudgetExceededError,
    TokenCountingHandler,
    Tracker,
    Usage,
)
from llama_token_tracker.errors import WatchError
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport
from tests.wire.httpx_clients.relay import Relay

PROMPT = "What is the capital of Australia?"
MESSAGES: Any = [{"role": "user", "content": PROMPT}]
SAID = "Canberra is the capital."
CLAUDE = "claude-3-5-sonnet-20241022"
TEXTS = ["one", "one two three four", "one two"]
USAGE: Any = {"stream_options": {"include_usage": True}}


def client(token_counter: Any, library: Any = httpx) -> Any:
    """A watched client, that follows redirects as those of the SDKs do."""
    return library.Client(transport=WatchingTransport(token_counter), follow_redirects=True)


def async_client(token_counter: Any, library: Any = httpx) -> Any:
    """The same, asynchronous."""
    transport = AsyncWatchingTransport(token_counter)
    return library.AsyncClient(transport=transport, follow_redirects=True)


def built_on(module: Any) -> Any:
    """The library that an SDK's own HTTP client is of: httpx, or httpx2."""
    *_, own = [kind for kind in module.DefaultHttpxClient.__mro__ if kind.__name__ == "Client"]
    return import_module(own.__module__.partition(".")[0])


def openai(place: Any, counter: Any, **more: Any) -> Any:
    """OpenAI's own client."""
    module = pytest.importorskip("openai")
    arguments = place.arguments("openai") | more
    return module.OpenAI(http_client=client(counter, built_on(module)), **arguments)


def async_openai(place: Any, counter: Any) -> Any:
    """The asynchronous one."""
    module = pytest.importorskip("openai")
    http_client = async_client(counter, built_on(module))
    return module.AsyncOpenAI(http_client=http_client, **place.arguments("openai"))


def anthropic(place: Any, counter: Any) -> Any:
    """Anthropic's own client."""
    module = pytest.importorskip("anthropic")
    http_client = client(counter, built_on(module))
    return module.Anthropic(http_client=http_client, **place.arguments("anthropic"))


def gemini(place: Any, counter: Any) -> Any:
    """Google's own client."""
    module = pytest.importorskip("google.genai")
    arguments = place.arguments("gemini")
    options = arguments["http_options"] | {
        "client_args": {"transport": WatchingTransport(counter)},
        "async_client_args": {"transport": AsyncWatchingTransport(counter)},
    }
    return module.Client(**arguments | {"http_options": options})


def cohere(place: Any, counter: Any) -> Any:
    """Cohere's own client."""
    module = pytest.importorskip("cohere")
    return module.Client(httpx_client=client(counter), **place.arguments("cohere"))


def ollama(place: Any, counter: Any) -> Any:
    """Ollama's own client."""
    module = pytest.importorskip("ollama")
    return module.Client(transport=WatchingTransport(counter), **place.arguments("ollama"))


def mistral(place: Any, counter: Any) -> Any:
    """Mistral's own client, which is built on httpx2."""
    module = pytest.importorskip("mistralai.client")
    httpx2 = pytest.importorskip("httpx2")
    return module.Mistral(
        client=httpx2.Client(transport=WatchingTransport(counter, httpx2.HTTPTransport())),
        async_client=httpx2.AsyncClient(
            transport=AsyncWatchingTransport(counter, httpx2.AsyncHTTPTransport())
        ),
        **place.arguments("mistral"),
    )


async def _drained(stream: Any) -> None:
    async for _ in await stream:
        pass


def _chat(given: Any, **more: Any) -> Any:
    return given.chat.completions.create(model="gpt-4o", messages=MESSAGES, **more)


def _asked(given: Any, **more: Any) -> Any:
    return given.messages.create(model=CLAUDE, max_tokens=64, messages=MESSAGES, **more)


# Google's client closes when nobody holds it any more, though its `models` be in use.
def _generate(given: Any) -> object:
    return given.models.generate_content(model="gemini-2.5-flash", contents=PROMPT)


def _generate_stream(given: Any) -> object:
    return list(given.models.generate_content_stream(model="gemini-2.5-flash", contents=PROMPT))


CHATS: dict[str, Callable[[Any, Any], object]] = {
    "openai.chat": lambda place, counter: _chat(openai(place, counter)),
    "openai.chat stream": lambda place, counter: list(
        _chat(openai(place, counter), stream=True, **USAGE)
    ),
    "openai.responses": lambda place, counter: openai(place, counter).responses.create(
        model="gpt-4o", input=MESSAGES
    ),
    "openai.responses stream": lambda place, counter: list(
        openai(place, counter).responses.create(model="gpt-4o", input=MESSAGES, stream=True)
    ),
    "openai.chat async": lambda place, counter: asyncio.run(_chat(async_openai(place, counter))),
    "openai.chat async stream": lambda place, counter: asyncio.run(
        _drained(_chat(async_openai(place, counter), stream=True, **USAGE))
    ),
    "anthropic.messages": lambda place, counter: _asked(anthropic(place, counter)),
    "anthropic.messages stream": lambda place, counter: list(
        _asked(anthropic(place, counter), stream=True)
    ),
    "gemini.generate": lambda place, counter: _generate(gemini(place, counter)),
    "gemini.stream": lambda place, counter: _generate_stream(gemini(place, counter)),
    "cohere.chat": lambda place, counter: cohere(place, counter).chat(
        model="command-r", message=PROMPT
    ),
    "cohere.chat stream": lambda place, counter: list(
        cohere(place, counter).chat_stream(model="command-r", message=PROMPT)
    ),
    "ollama.chat": lambda place, counter: ollama(place, counter).chat("llama3", MESSAGES),
    "ollama.chat stream": lambda place, counter: list(
        ollama(place, counter).chat("llama3", MESSAGES, stream=True)
    ),
    "mistral.chat": lambda place, counter: mistral(place, counter).chat.complete(
        model="mistral-small", messages=MESSAGES
    ),
    "mistral.chat stream": lambda place, counter: list(
        mistral(place, counter).chat.stream(model="mistral-small", messages=MESSAGES)
    ),
    "mistral.chat async": lambda place, counter: asyncio.run(
        mistral(place, counter).chat.complete_async(model="mistral-small", messages=MESSAGES)
    ),
}
every_chat = pytest.mark.parametrize("way", CHATS)


@every_chat
def test_a_call_is_one_event_with_its_bill(way: str, provider: LoopbackProvider, tracker: Tracker):
    """Its texts and its model are there, too."""
    provider.script(Reply(SAID))
    CHATS[way](provider, tracker)
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert (event.prompt_token_count, event.completion_token_count) == (
        billed.input_tokens,
        billed.output_tokens,
    )
    assert (event.source, event.status, event.operation) == ("reported", "complete", "chat")
    assert event.model == provider.calls[0].model
    assert (event.prompt, event.completion) == (f"user: {PROMPT}", f"assistant: {SAID}")
    assert event.duration_s > 0
    assert tracker.total_llm_token_count == billed.total_tokens


@every_chat
def test_what_a_provider_leaves_out_is_counted_here(
    way: str, provider: LoopbackProvider, handler: TokenCountingHandler
):
    """Prompt and answer are counted with the handler's tokenizer, and marked."""
    handler.tokenizer = str.split
    provider.script(Reply(SAID, None))
    CHATS[way](provider, handler)
    [event] = handler.llm_token_counts
    assert event.source in ("counted", "estimated")
    assert event.prompt_token_count >= len(PROMPT.split())
    assert event.completion_token_count == len(SAID.split())


@every_chat
def test_an_error_costs_nothing(way: str, provider: LoopbackProvider, tracker: Tracker):
    """It reaches the program as it is, and is listed among the failed."""
    provider.script(Reply(status=400), repeat=True)
    with pytest.raises(Exception, match="400"):
        CHATS[way](provider, tracker)
    assert {(e.status, e.total_token_count) for e in tracker.failed_calls} == {("failed", 0)}
    assert len(tracker.failed_calls) == len(provider.calls)
    assert tracker.llm_token_counts == []


def test_caches_are_part_of_the_input(provider: LoopbackProvider, tracker: Tracker):
    """Anthropic leaves them out of its figure; here they are in, whole or streamed."""
    cached = Usage(
        input_tokens=22_734, output_tokens=56, cache_read_tokens=21_500, cache_write_tokens=200
    )
    provider.script(Reply(SAID, cached), Reply(SAID, cached))
    _asked(anthropic(provider, tracker))
    list(_asked(anthropic(provider, tracker), stream=True))
    for event in tracker.llm_token_counts:
        assert (event.prompt_token_count, event.completion_token_count) == (22_734, 56)
        assert event.usage.cache_read_tokens == 21_500
    assert tracker.total_cost_usd is not None


def test_a_completion_is_no_chat(provider: LoopbackProvider, tracker: Tracker):
    """OpenAI's older operation takes a text."""
    openai(provider, tracker).completions.create(model="gpt-3.5-turbo-instruct", prompt=PROMPT)
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert (event.operation, event.prompt) == ("completion", PROMPT)
    assert event.total_token_count == billed.total_tokens


@pytest.mark.parametrize("is_async", [False, True])
def test_texts_of_a_request_share_its_figure_exactly(
    is_async: bool, provider: LoopbackProvider, tracker: Tracker
):
    """One event a text; the longer text has the larger share, and the sum is the provider's."""
    if is_async:
        made = async_openai(provider, tracker)
        asyncio.run(made.embeddings.create(model="text-embedding-3-small", input=TEXTS))
    else:
        made = openai(provider, tracker)
        made.embeddings.create(model="text-embedding-3-small", input=TEXTS)
    events, [billed] = tracker.embedding_token_counts, provider.billed
    assert [event.prompt for event in events] == TEXTS
    assert {(event.source, event.operation) for event in events} == {("reported", "embedding")}
    assert sum(event.prompt_token_count for event in events) == billed.input_tokens
    assert events[1].prompt_token_count == max(event.prompt_token_count for event in events)


def test_counting_tokens_is_no_call_to_a_model(provider: LoopbackProvider, tracker: Tracker):
    """Anthropic's count_tokens is free."""
    anthropic(provider, tracker).messages.count_tokens(model=CLAUDE, messages=MESSAGES)
    assert len(provider.calls) == 1
    assert tracker.totals() == {}


def test_a_call_that_is_tried_again_is_an_event_for_each_attempt(
    provider: LoopbackProvider, tracker: Tracker
):
    """The one that was refused is among the failed, and the other is counted."""
    provider.script(Reply(status=429))
    _chat(openai(provider, tracker, max_retries=2))
    assert [call.status for call in provider.calls] == [429, 200]
    assert len(tracker.failed_calls) == 1
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert event.total_token_count == billed.total_tokens


def test_a_redirect_is_one_call(provider: LoopbackProvider, tracker: Tracker):
    """Both requests are the same call, and no other is left behind."""
    with Relay(provider, redirects=True) as relay:
        _chat(openai(relay, tracker))
        assert len(relay.requests) == 2
    gc.collect()
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert event.total_token_count == billed.total_tokens
    assert event.prompt == f"user: {PROMPT}"
    assert tracker.failed_calls == []


def test_a_redirect_that_nobody_follows_has_failed(provider: LoopbackProvider, tracker: Tracker):
    """It has cost nothing."""
    with Relay(provider, redirects=True) as relay:
        sender = httpx.Client(transport=WatchingTransport(tracker))
        sender.post(f"{relay.url}/openai/v1/chat/completions", json={"messages": MESSAGES})
    gc.collect()
    assert (len(tracker.failed_calls), tracker.llm_token_counts) == (1, [])


def test_nobody_listening_is_a_failed_call(tracker: Tracker):
    """Without any answer nothing was billed."""
    with pytest.raises(httpx.ConnectError):
        client(tracker).post("http://127.0.0.1:9/v1/messages", json={"messages": MESSAGES})
    assert len(tracker.failed_calls) == 1


def test_a_call_belongs_to_the_scope_in_which_it_left(provider: LoopbackProvider):
    """Two who count on one client each have it in their own scope."""
    first, second = Tracker(), Tracker()
    inner = WatchingTransport(second)
    sender = httpx.Client(transport=WatchingTransport(first, inner))
    module = pytest.importorskip("openai")
    made = module.OpenAI(http_client=sender, **provider.arguments("openai"))
    with first.scope("one") as one:
        stream = _chat(made, stream=True, **USAGE)
    with first.scope("other") as other, second.scope("theirs") as theirs:
        list(stream)
        _chat(made)
    a, b = provider.billed
    assert one.total_llm_token_count == a.total_tokens
    assert other.total_llm_token_count == theirs.total_llm_token_count == b.total_tokens
    assert first.total_llm_token_count == second.total_llm_token_count
    assert first.total_llm_token_count == a.total_tokens + b.total_tokens


def test_a_budget_stops_a_request_before_it_is_sent(provider: LoopbackProvider):
    """OpenAI's client before 2.31 wraps it as it wraps whatever a transport raises."""
    module = pytest.importorskip("openai")
    tracker = Tracker(budget=Budget(tokens=10))
    with pytest.raises((module.APIConnectionError, BudgetExceededError)) as raised:
        _chat(openai(provider, tracker), max_tokens=5_000)
    error = raised.value
    assert isinstance(error, BudgetExceededError) or isinstance(
        error.__cause__, BudgetExceededError
    )
    assert provider.calls == []
    assert tracker.totals() == {}


def test_a_budget_is_charged_with_what_was_reported(provider: LoopbackProvider):
    """What was held for the call is settled with the bill."""
    budget = Budget(tokens=100_000)
    tracker = Tracker(budget=budget)
    _chat(openai(provider, tracker), max_tokens=50)
    [billed] = provider.billed
    [accounts] = tracker.accounts
    assert accounts.spent().tokens == billed.total_tokens


def test_nothing_that_passes_is_changed(provider: LoopbackProvider, tracker: Tracker):
    """The same request leaves with a watch as without, and the same answer arrives."""
    url = f"{provider.url()}/openai/v1/chat/completions"
    bodies = []
    for transport in (httpx.HTTPTransport(), WatchingTransport(tracker)):
        sent: list[Any] = []
        hooks: Any = {"request": [sent.append]}
        with httpx.Client(transport=transport, event_hooks=hooks) as sender:
            provider.reset()
            provider.script(Reply(SAID, Usage(input_tokens=7, output_tokens=5)))
            answer = sender.post(url, json={"model": "m", "messages": MESSAGES})
        assert set(sent[0].extensions) == {"timeout"}
        assert answer.extensions["http_version"] == b"HTTP/1.1"
        assert "network_stream" in answer.extensions
        assert pickle.loads(pickle.dumps(answer)).content == answer.content
        bodies.append((sent[0].content, answer.json()["choices"], provider.calls[0].body))
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b'{"messages": 7}'])
def test_an_odd_request_is_sent_all_the_same(
    content: bytes, provider: LoopbackProvider, tracker: Tracker
):
    """Whatever it holds, the program gets its answer and nothing is raised."""
    answer = client(tracker).post(f"{provider.url()}/ollama/api/chat", content=content)
    assert answer.status_code == 200
    assert len(tracker.llm_token_counts) == 1


def test_a_request_whose_body_is_a_stream_is_counted(provider: LoopbackProvider, tracker: Tracker):
    """Only the transport may read it, so the event has no prompt."""
    sent = iter([b'{"model": "m", "messages"', b": []}"])
    client(tracker).post(f"{provider.url()}/openai/v1/chat/completions", content=sent)
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert (event.total_token_count, event.prompt) == (billed.total_tokens, "")


def test_a_transport_that_asks_nobody_is_heard(tracker: Tracker):
    """The one that httpx has for tests gives answers that are whole already."""
    usage = {"prompt_tokens": 17, "completion_tokens": 4, "total_tokens": 21}
    inner = httpx.MockTransport(lambda _: httpx.Response(200, json={"usage": usage}))
    httpx.Client(transport=WatchingTransport(tracker, inner)).post(
        "https://api.mistral.ai/v1/chat/completions", json={"model": "m"}
    )
    [event] = tracker.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (17, 4)
    assert event.provider == "mistral_ai"


def test_only_who_counts_can_watch():
    """The message says what was given, and what to give."""
    with pytest.raises(WatchError, match="watched by a str, which doesn't count"):
        WatchingTransport("tracker")
    with pytest.raises(WatchError, match="an AsyncHTTPTransport has no handle_request"):
        WatchingTransport(Tracker(), httpx.AsyncHTTPTransport())  # type: ignore[arg-type]
