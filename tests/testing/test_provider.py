"""The provider itself: what it's scripted with, what it remembers, and how much it bears."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import httpx
import openai
import pytest

from llama_token_tracker import Usage
from llama_token_tracker.testing import LoopbackError, LoopbackProvider, Reply
from llama_token_tracker.testing.clients import Provider
from tests.testing.samples import ASK, PLAIN, THOUGHT

CHAT: Any = {"model": "gpt-4o-mini", "messages": ASK}
STREAM: Any = CHAT | {"stream": True, "stream_options": {"include_usage": True}}


def ask(http: httpx.Client, provider: LoopbackProvider, **fields: object) -> Any:
    """Ask for a chat completion, and give what was said."""
    response = http.post(provider.url("openai") + "/chat/completions", json=CHAT | fields)
    return response.json()["choices"][0]["message"]["content"]


# --- Scripting -------------------------------------------------------------------------------


def test_replies_come_in_order_and_then_the_default(http: httpx.Client):
    """Each scripted reply answers one call; what comes after is answered all the same."""
    with LoopbackProvider(default=Reply("later")) as provider:
        provider.script(Reply("first"), Reply("second"))
        said = [ask(http, provider) for _ in range(4)]
    assert said == ["first", "second", "later", "later"]


def test_a_reply_waits_for_the_call_that_fits(http: httpx.Client, provider: LoopbackProvider):
    """Model, path and prompt each have to fit; others pass by."""
    provider.script(Reply("by model"), model="gpt-5")
    provider.script(Reply("by path"), path="/completions/extra")
    provider.script(Reply("by prompt"), prompt="capital of Peru")
    nested = [{"role": "user", "content": [{"type": "text", "text": "the capital of Peru?"}]}]
    assert ask(http, provider) == Reply().text
    assert ask(http, provider, messages=nested) == "by prompt"
    assert ask(http, provider, messages=nested) == Reply().text
    assert ask(http, provider, model="gpt-5-mini") == "by model"


def test_a_prompt_is_looked_for_in_values_only(http: httpx.Client, provider: LoopbackProvider):
    """`messages` is a key of every chat, not something that anyone said."""
    provider.script(Reply("found"), prompt="messages")
    assert ask(http, provider) == Reply().text


def test_a_repeated_reply_answers_all_that_fit(http: httpx.Client, provider: LoopbackProvider):
    """Until the provider is reset."""
    provider.script(Reply("again"), model="gpt", repeat=True)
    assert [ask(http, provider) for _ in range(3)] == ["again"] * 3
    provider.reset()
    assert ask(http, provider) == Reply().text


def test_only_replies_can_be_scripted(provider: LoopbackProvider):
    """A mistake is named where it's made, not in the server's thread."""
    odd: Any = "Paris"
    with pytest.raises(LoopbackError, match=r"'Paris' is no Reply; script Reply\(text, usage\)"):
        provider.script(Reply(), odd)
    with pytest.raises(LoopbackError, match="'Paris' is no Reply"):
        LoopbackProvider(default=odd)


# --- What it remembers -----------------------------------------------------------------------


def test_a_call_holds_what_was_asked_and_what_it_cost(
    http: httpx.Client, provider: LoopbackProvider
):
    """As soon as a whole answer has come, all of it is there."""
    provider.script(Reply(usage=THOUGHT))
    ask(http, provider)
    [call] = provider.calls
    assert (call.api, call.path) == ("openai.chat", "/openai/v1/chat/completions")
    assert (call.model, call.body["messages"]) == ("gpt-4o-mini", ASK)
    assert (call.status, call.streamed, call.ended) == (200, False, "finished")
    assert call.reported == call.billed == THOUGHT
    assert provider.billed == [THOUGHT]


def test_what_is_not_scripted_costs_figures_of_its_own(
    http: httpx.Client, provider: LoopbackProvider
):
    """Two calls never cost the same."""
    for _ in range(2):
        ask(http, provider)
    first, second = provider.billed
    assert first.input_tokens != second.input_tokens
    assert provider.calls[0].reported == first


def test_an_unknown_path_is_answered_and_noted(http: httpx.Client, provider: LoopbackProvider):
    """The answer lists what is known, the script is left alone, and nothing is billed."""
    provider.script(Reply("for a chat"))
    response = http.post(provider.url("openai") + "/moderations", json={"input": "a"})
    assert response.status_code == 404
    assert "knows no /openai/v1/moderations" in response.json()["error"]["message"]
    assert "openai.chat" in response.json()["error"]["message"]
    [call] = provider.calls
    assert (call.api, call.status, call.billed, call.ended) == ("", 404, None, "finished")
    assert ask(http, provider) == "for a chat"


def test_the_calls_outlive_the_server(http: httpx.Client):
    """What was noted can be read when nothing listens any more."""
    with LoopbackProvider() as provider:
        ask(http, provider)
    assert len(provider.calls) == 1


# --- Streams that don't reach their end ------------------------------------------------------


@pytest.mark.parametrize("after", [0, 2, 4])
def test_a_stream_is_cut_where_it_was_scripted(
    after: int, http: httpx.Client, provider: LoopbackProvider
):
    """The client gets so many pieces and an error, and the usage never goes out."""
    provider.script(Reply("a b c d ", THOUGHT, cut_after=after, chunks=4))
    url, lines = provider.url("openai") + "/chat/completions", list[str]()
    with (
        http.stream("POST", url, json=STREAM) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        lines.extend(response.iter_lines())
    got = [letter for letter in "abcd" if f'"content":"{letter} "' in "".join(lines)]
    assert got == list("abcd"[:after])
    [call] = provider.settle()
    assert (call.ended, call.billed, call.reported) == ("cut", THOUGHT, None)


def test_a_client_that_leaves_is_noted(provider: LoopbackProvider):
    """A stream that stalls is left by closing it."""
    provider.script(Reply("a b c d ", stall_after=2, chunks=4))
    with openai.OpenAI(**provider.arguments("openai")) as client:
        stream: Any = client.chat.completions.create(**STREAM)
        said = ""
        while said != "a b ":
            said += next(stream).choices[0].delta.content or ""
        assert [call.ended for call in provider.calls] == ["open"]
        stream.close()
    [call] = provider.settle()
    assert (call.ended, call.reported) == ("left", None)


def test_a_client_that_leaves_between_two_pieces_is_noted(provider: LoopbackProvider):
    """With a pause between the pieces, the provider sees at once that nobody reads on."""
    provider.script(Reply("a b c d ", pause_s=30, chunks=4))
    began = time.monotonic()
    with openai.OpenAI(**provider.arguments("openai")) as client:
        stream: Any = client.chat.completions.create(**STREAM)
        next(stream)
        stream.close()
        [call] = provider.settle()
    assert call.ended == "left"
    assert time.monotonic() - began < 15


def test_an_impatient_client_is_noted(provider: LoopbackProvider):
    """A call whose answer came too late was billed, and left."""
    provider.script(Reply(usage=PLAIN, delay_s=30))
    with openai.OpenAI(**provider.arguments("openai"), timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(**CHAT)
        [call] = provider.settle()
    assert (call.ended, call.billed, call.reported) == ("left", PLAIN, None)


def test_pauses_take_their_time(http: httpx.Client, provider: LoopbackProvider):
    """A delay before the answer and a pause between each two of its pieces."""
    provider.script(Reply("a b c ", chunks=3, delay_s=0.1, pause_s=0.1))
    began = time.monotonic()
    http.post(provider.url("openai") + "/chat/completions", json=STREAM)
    assert 0.3 <= time.monotonic() - began < 10


def test_settling_has_an_end(provider: LoopbackProvider):
    """An answer that nobody reads to its end is waited for as long as was asked."""
    provider.script(Reply(stall_after=1))
    with openai.OpenAI(**provider.arguments("openai")) as client:
        stream: Any = client.chat.completions.create(**STREAM)
        with pytest.raises(TimeoutError, match=r"on their way after 0\.05 s"):
            provider.settle(timeout_s=0.05)
        stream.close()
        provider.settle()


def test_leaving_hangs_up_on_whoever_waits(http: httpx.Client):
    """The end of a `with` waits for nobody: neither for a slow answer nor for an idle client."""
    with ThreadPoolExecutor() as pool:
        with LoopbackProvider() as provider:
            ask(http, provider)
            provider.script(Reply(delay_s=60))
            with httpx.Client() as other:
                waiting = pool.submit(ask, other, provider)
                while len(provider.calls) < 2:
                    time.sleep(0.01)
        with pytest.raises(httpx.HTTPError):
            waiting.result(timeout=10)
    assert provider.settle()[1].ended == "left"


# --- Where clients are told ------------------------------------------------------------------


def test_an_unknown_provider_is_refused(provider: LoopbackProvider):
    """The error lists the known ones."""
    odd: Any = "azure"
    for method in (provider.url, provider.arguments):
        with pytest.raises(LoopbackError, match=r"'azure'; it speaks as anthropic, bedrock"):
            method(odd)


def test_nothing_is_led_to_a_provider_that_does_not_listen():
    """Before the `with` and after it there is no address."""
    provider = LoopbackProvider()
    for _ in range(2):
        with pytest.raises(LoopbackError, match="enter it with `with` first"):
            provider.environment()
        with provider:
            assert provider.environment()
            with pytest.raises(LoopbackError, match="listening already"):
                provider.__enter__()


@pytest.mark.parametrize("name", ["anthropic", "openai"])
def test_the_environment_leads_a_client_here(
    name: Provider, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch
):
    """Clients made without any argument speak to the provider."""
    for variable, value in provider.environment().items():
        monkeypatch.setenv(variable, value)
    import anthropic

    if name == "openai":
        with openai.OpenAI() as client:
            client.embeddings.create(model="m", input="a")
    else:
        with anthropic.Anthropic() as other:
            other.messages.create(model="m", max_tokens=9, messages=ASK)
    [call] = provider.calls
    assert call.api.startswith(name)


def test_the_environment_leads_other_processes_here(provider: LoopbackProvider):
    """boto3 in a process of its own, with nothing but the environment."""
    script = (
        "import boto3\n"
        "client = boto3.client('bedrock-runtime')\n"
        "ask = [{'role': 'user', 'content': [{'text': 'Which?'}]}]\n"
        "print(client.converse(modelId='m', messages=ask)['usage']['inputTokens'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | provider.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{provider.billed[0].input_tokens}\n"


# --- How much it bears -----------------------------------------------------------------------


@pytest.mark.slow
def test_two_hundred_streams_at_once_keep_their_own_figures(provider: LoopbackProvider):
    """All of them overlap, and each reports its own bill, all of it, to whoever asked."""

    async def one(client: openai.AsyncOpenAI) -> tuple[int, int]:
        stream: Any = await client.chat.completions.create(**STREAM)
        *_, last = [chunk async for chunk in stream]
        return last.usage.prompt_tokens, last.usage.completion_tokens

    async def gather() -> list[tuple[int, int]]:
        async with openai.AsyncOpenAI(**provider.arguments("openai"), timeout=60) as client:
            return await asyncio.gather(*(one(client) for _ in range(200)))

    provider.script(Reply(pause_s=0.5), repeat=True)
    began = time.monotonic()
    reported = asyncio.run(gather())
    # One after the other they would take five minutes.
    assert time.monotonic() - began < 100
    calls = provider.settle()
    assert {call.ended for call in calls} == {"finished"}
    assert sorted(reported) == sorted(
        (usage.input_tokens, usage.output_tokens) for usage in provider.billed
    )
    assert len(set(reported)) == 200


def test_threads_may_script_and_ask_at_once(provider: LoopbackProvider):
    """Eight threads, each with a script of its own, each get their own replies in order."""

    def work(number: int) -> list[str]:
        for turn in range(20):
            provider.script(Reply(f"{number}.{turn}"), model=f"model-{number}-")
        with httpx.Client() as http:
            return [ask(http, provider, model=f"model-{number}-x") for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(work, range(8)))
    assert said == [[f"{number}.{turn}" for turn in range(20)] for number in range(8)]
    assert sorted(call.number for call in provider.calls) == [c.number for c in provider.calls]


class Spy(Sequence[float]):
    """A vector that looks around where it's read."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.threads: list[str] = []
        self.loops: list[object] = []

    def __len__(self) -> int:
        """One dimension."""
        return 1

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...
    def __getitem__(self, index: Any) -> Any:
        """Nothing but zeros."""
        return 0.0

    def __iter__(self) -> Iterator[float]:
        """Collect garbage, as could happen at any time, and see whether a loop runs here."""
        gc.collect()
        self.threads.append(threading.current_thread().name)
        try:
            self.loops.append(asyncio.get_running_loop())
        except RuntimeError:
            self.loops.append(None)
        yield 0.0


@pytest.mark.slow
def test_what_is_collected_while_it_answers_finds_no_loop(
    http: httpx.Client, provider: LoopbackProvider
):
    """An asynchronous client that's collected in the server's thread can't close itself there."""
    spy = Spy()
    provider.script(Reply(embedding=spy))
    http.post(provider.url("openai") + "/embeddings", json={"input": "a"})
    assert spy.threads
    assert threading.current_thread().name not in spy.threads
    assert set(spy.loops) == {None}


def test_a_body_may_come_in_chunks(http: httpx.Client, provider: LoopbackProvider):
    """Who sends a request before its length is known is understood."""

    def body() -> Iterator[bytes]:
        yield b'{"model": "m", "input":'
        yield b' "a"}'

    response = http.post(provider.url("openai") + "/embeddings", content=body())
    assert response.json()["model"] == "m"


def test_what_is_no_json_is_answered_too(http: httpx.Client, provider: LoopbackProvider):
    """A request of odd shape is no reason to hang up."""
    for content in (b"", b"{", b"[1, 2]", b"\xff"):
        response = http.post(provider.url("openai") + "/embeddings", content=content)
        assert response.json()["usage"]["prompt_tokens"] > 0
    assert provider.calls[2].body == {"body": [1, 2]}


def test_a_drawn_embedding_costs_no_output(http: httpx.Client, provider: LoopbackProvider):
    """An embedding is billed for its input alone, whatever was scripted."""
    http.post(provider.url("openai") + "/embeddings", json={"input": "a"})
    [usage] = provider.billed
    assert usage == Usage(input_tokens=usage.input_tokens)
