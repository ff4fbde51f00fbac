"""What is put off until somebody asks, says by then what it said at once."""

import gc
import json
import subprocess
import sys
import threading
from functools import cache
from typing import Any

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_token_tracker import Budget, BudgetExceededError, TokenCountingHandler, Tracker
from llama_token_tracker._background import WORKER
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.testing.formats.bedrock import eventstream
from llama_token_tracker.tracking.correlation import UNKNOWN_OWNER, RequestOwner
from llama_token_tracker.usage import Usage
from llama_token_tracker.wire import watch
from llama_token_tracker.wire.botocore.answers import OPERATIONS
from llama_token_tracker.wire.dialects import CONVERSE, INVOKE, INVOKE_STREAM
from llama_token_tracker.wire.exchange import Exchange
from llama_token_tracker.wire.transcript import Recorder
from tests.wire.bedrock.conftest import BODY, CLAUDE, MESSAGES
from tests.wire.bedrock.test_cut_streams import answered

CACHED = Usage(input_tokens=900, output_tokens=7, cache_read_tokens=500, cache_write_tokens=300)


def _empty(value: Any) -> None:
    """Take everything out of what a program has got, as deep as it goes."""
    for inner in list(value.values()) if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            _empty(inner)
    value.clear()


def test_what_a_program_does_to_an_answer_changes_no_figure_and_no_text(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Answers and events are the program's own, once it has them."""
    provider.script(*[Reply("yes", CACHED)] * 4)
    watch(tracker, client)
    answer = client.converse(modelId=CLAUDE, messages=MESSAGES)
    _empty(answer)
    answer = client.invoke_model(modelId=CLAUDE, body=BODY)
    _empty(answer["ResponseMetadata"])
    for event in client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"]:
        _empty(event)
    stream = client.invoke_model_with_response_stream(modelId=CLAUDE, body=BODY)
    for event in stream["body"]:
        _empty(event)
    counted = [event.usage for event in tracker.llm_token_counts]
    assert [usage.total_tokens for usage in counted] == [
        usage.total_tokens for usage in provider.billed
    ]
    assert {usage.cache_read_tokens for usage in counted} == {500}
    said = "assistant: yes"
    # The body of the second wasn't read.
    assert [event.completion for event in tracker.llm_token_counts] == [said, "", said, said]


def test_threads_that_read_at_once_find_the_same(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Each call is counted once, whole, by whoever is first."""
    provider.script(*[Reply("some words of an answer", None)] * 10)
    watch(tracker, client)
    for _ in range(10):
        list(client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"])
    barrier, found = threading.Barrier(6), []

    def read() -> None:
        barrier.wait()
        found.append(tracker.total_llm_token_count)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = tracker.llm_token_counts
    assert len(events) == 10
    assert {event.completion for event in events} == {"assistant: some words of an answer"}
    assert set(found) == {sum(event.total_token_count for event in events)}
    assert all(event.completion_token_count > 0 for event in events)


def test_a_stream_in_a_cycle_is_counted_by_the_collector(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Where nobody holds it but itself, what came is counted when that's noticed."""
    watch(tracker, client)
    stream = client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"]
    stream.itself = stream
    next(iter(stream))
    del stream
    assert tracker.llm_token_counts == []
    gc.collect()
    [event] = tracker.llm_token_counts
    assert event.status == "abandoned"
    assert event.prompt_token_count > 0


def test_a_call_that_a_budget_refuses_is_none(client: Any, provider: LoopbackProvider):
    """Nothing was sent, so nothing was abandoned."""
    tracker = Tracker(budget=Budget(tokens=1))
    watch(tracker, client)
    with pytest.raises(BudgetExceededError):
        client.converse(modelId=CLAUDE, messages=MESSAGES)
    gc.collect()
    assert provider.billed == []
    assert tracker.totals() == {}
    assert tracker.llm_token_counts == tracker.failed_calls == []


def test_a_chunk_that_nobody_can_read_takes_nothing_from_the_others(tracker: Tracker):
    """However deep it is: the stream reaches its reader, and the other figures stand."""
    deep = b'{"tokens": ' * 100_000
    metrics = {"inputTokenCount": 3, "outputTokenCount": 4}
    last = json.dumps({"amazon-bedrock-invocationMetrics": metrics}).encode()
    sent = [{"chunk": {"bytes": chunk}} for chunk in (deep, b"[token", last)]
    exchange = Exchange(Recorder(tracker), "aws.bedrock", CLAUDE, "chat", INVOKE_STREAM, BODY)
    parsed: dict[str, Any] = {"body": sent}
    OPERATIONS["InvokeModelWithResponseStream"](exchange, parsed, b"")
    assert list(parsed["body"]) == sent
    [event] = tracker.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (3, 4)
    assert (event.source, event.status) == ("reported", "complete")


class _Owner:
    """A framework that claims each request."""

    def has_open_calls(self) -> bool:
        return True

    def find_owner(self, _provider: str | None, /) -> RequestOwner:
        return UNKNOWN_OWNER


_FIGURES = st.dictionaries(
    st.sampled_from(["inputTokens", "outputTokens", "cacheReadInputTokens"]), st.integers(0, 99)
)


@given(st.lists(st.one_of(st.just("text"), _FIGURES), max_size=8), st.booleans())
def test_figures_read_later_are_those_heard_at_once(parts: list[Any], ends: bool):
    """In whatever order texts and figures come, and whether or not the stream ends."""
    owner, claimed, plain = _Owner(), Tracker(), Tracker()
    claimed.owners.add(owner)
    at_once, later = (
        Exchange(Recorder(tracker), "aws.bedrock", CLAUDE, "chat", CONVERSE, b"{}")
        for tracker in (claimed, plain)
    )
    readings = [_heard(exchange, parts, ends) for exchange in (at_once, later)]
    assert readings[0] == readings[1]


def _heard(exchange: Exchange, parts: list[Any], ends: bool) -> object:
    for part in parts:
        if part == "text":
            exchange.keep({"contentBlockDelta": {"delta": {"text": part}}})
        else:
            exchange.add_later({"usage": part})
    if ends:
        exchange.settle("complete")
    return exchange.reported()


_SAID = st.one_of(
    st.builds(lambda text: {"text": text}, st.text(max_size=9)),
    st.builds(lambda text: {"reasoningContent": {"text": text}}, st.text(max_size=9)),
    st.builds(lambda text: {"toolUse": {"input": text}}, st.text(max_size=9)),
    st.just({"text": 'the "usage" of tokens'}),
)
_EVENTS = st.one_of(
    _SAID.map(lambda delta: ("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta})),
    st.sampled_from(["end_turn", "max_tokens", "guardrail_intervened"]).map(
        lambda reason: ("messageStop", {"stopReason": reason})
    ),
    _FIGURES.map(lambda usage: ("metadata", {"usage": usage, "metrics": {"latencyMs": 1}})),
    st.just(("messageStart", {"role": "assistant"})),
)


@settings(deadline=None)
@given(st.lists(_EVENTS, max_size=7))
def test_messages_that_are_kept_say_what_their_events_say(events: list[tuple[str, Any]]):
    """In whatever order they come: those are read as bytes, later, and these one by one."""
    kept, taken = Tracker(), Tracker()
    client = _anybodys_client()
    with watch(kept, client):
        content = b"".join(eventstream.event(*event) for event in events)
        parsed = list(answered(client, content, modelId=CLAUDE, messages=MESSAGES))
    exchange = Exchange(Recorder(taken), "aws.bedrock", CLAUDE, "chat", CONVERSE, _ASKED)
    OPERATIONS["ConverseStream"](exchange, {"stream": parsed}, b"")
    assert _counted(kept) == _counted(taken)


def test_a_program_that_empties_a_stubs_events_takes_no_guardrail_from_them(tracker: Tracker):
    """Zeros are true where one has stopped the answer."""
    zeros = {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}
    events: list[dict[str, Any]] = [
        {"messageStop": {"stopReason": "guardrail_intervened"}},
        {"metadata": {"usage": zeros}},
    ]
    exchange = Exchange(Recorder(tracker), "aws.bedrock", CLAUDE, "chat", CONVERSE, _ASKED)
    OPERATIONS["ConverseStream"](exchange, {"stream": events}, b"")
    _empty(events)
    [event] = tracker.llm_token_counts
    assert (event.total_token_count, event.source) == (0, "reported")


@cache
def _anybodys_client() -> Any:
    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )


_ASKED = json.dumps({"messages": MESSAGES}).encode()


def _counted(tracker: Tracker) -> object:
    [event] = tracker.llm_token_counts
    said = event.prompt, event.completion, event.status, event.source, {*event.not_understood}
    return event.usage, *said


_LEFT_OPEN = """
import boto3, sys
from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.wire import watch
from llama_token_tracker.testing import LoopbackProvider
provider = LoopbackProvider()
provider.__enter__()
client = boto3.client("bedrock-runtime", **provider.arguments("bedrock"))
counter = TokenCountingHandler()
watch(counter, client)
messages = [{"role": "user", "content": [{"text": "hello"}]}]
stream = client.converse_stream(modelId="anthropic.claude-v2", messages=messages)["stream"]
next(iter(stream))
stream.itself = stream
provider.__exit__(None, None, None)
"""


@pytest.mark.slow
def test_a_program_may_end_with_an_open_stream():
    """Nothing is said or raised while the interpreter goes down."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LEFT_OPEN], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_text_is_kept_as_the_handler_says_when_it_is_read(client: Any, provider: LoopbackProvider):
    """A handler that is gone by then has texts kept, and figures all the same."""
    handler = TokenCountingHandler()
    tracker = handler.tracker
    watch(handler, client)
    client.converse(modelId=CLAUDE, messages=MESSAGES)
    del handler
    gc.collect()
    [event] = tracker.llm_token_counts
    assert event.total_token_count == provider.billed[0].total_tokens
    assert event.prompt


@pytest.mark.parametrize("amounts", [[None], [-1, None], [10_000], [7, None], [20, 20, 9_000]])
def test_a_body_that_is_read_after_the_totals_still_gives_its_text(
    client: Any, provider: LoopbackProvider, tracker: Tracker, amounts: list[int | None]
):
    """Whole or in pieces: the header has told the figures, and the text follows."""
    provider.script(Reply("an answer with }, in the middle of it", CACHED))
    watch(tracker, client)
    body = client.invoke_model(modelId=CLAUDE, body=BODY)["body"]
    [event] = tracker.llm_token_counts
    assert (event.total_token_count, event.completion) == (CACHED.total_tokens, "")
    for amount in amounts:
        body.read(amount)
    assert event.completion == "assistant: an answer with }, in the middle of it"


def test_bodies_that_wait_are_bounded(
    client: Any,
    provider: LoopbackProvider,
    tracker: Tracker,
    monkeypatch: pytest.MonkeyPatch,
):
    """Answers are held until they are counted; if they are large, that's soon."""
    monkeypatch.setattr("llama_token_tracker.tracking.pending.MAX_HELD_BYTES", 100_000)
    asked: list[object] = []
    monkeypatch.setattr(WORKER, "ask", asked.append)
    provider.script(*[Reply("long " * 8_000, CACHED)] * 5)
    watch(tracker, client)
    for _ in range(3):
        client.invoke_model(modelId=CLAUDE, body=BODY)["body"].read()
    assert asked == []
    client.invoke_model(modelId=CLAUDE, body=BODY)
    assert asked == [tracker.catch_up]
    assert len(tracker.llm_token_counts) == 4
    client.invoke_model(modelId=CLAUDE, body=BODY)
    assert len(asked) == 1


def test_a_call_that_two_threads_end_is_one(tracker: Tracker):
    """As when one reads a stream to its end, and another closes it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            exchange = Exchange(Recorder(tracker), "aws.bedrock", CLAUDE, "chat", CONVERSE, b"{}")
            exchange.add({"usage": {"inputTokens": 3, "outputTokens": 4}})
            ends = [
                threading.Thread(target=exchange.settle, args=(status,))
                for status in ("complete", "abandoned", "complete")
            ]
            for end in ends:
                end.start()
            for end in ends:
                end.join()
    finally:
        sys.setswitchinterval(before)
    assert len(tracker.llm_token_counts) == 200
    assert tracker.total_llm_token_count == 200 * 7


def test_a_request_that_cannot_be_noted_is_none(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Where a framework's listener fails, the call goes through, and nothing is raised later."""

    class Broken:
        """A framework whose listener raises."""

        def has_open_calls(self) -> bool:
            raise RuntimeError

        def find_owner(self, _provider: str | None, /) -> RequestOwner:
            raise RuntimeError

    broken = Broken()
    tracker.owners.add(broken)
    watch(tracker, client)
    assert client.converse(modelId=CLAUDE, messages=MESSAGES)["usage"]
    gc.collect()
    assert tracker.llm_token_counts == tracker.failed_calls == []


@pytest.mark.parametrize(
    ("said", "output", "embeds"),
    [
        ({"inputText": "one"}, {}, True),
        ({"texts": ["one"], "input_type": "search_query"}, {}, True),
        ({"inputText": "one", "textGenerationConfig": {}}, {}, False),
        ({"inputText": "one"}, {"x-amzn-bedrock-output-token-count": "5"}, False),
    ],
)
def test_a_name_that_tells_nothing_is_told_by_request_and_answer(
    said: dict[str, Any], output: dict[str, str], embeds: bool, tracker: Tracker
):
    """As that of an application inference profile."""
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
    body = json.dumps(said)
    exchange = Exchange(Recorder(tracker), "aws.bedrock", arn, "chat", INVOKE, body)
    headers = {"x-amzn-bedrock-input-token-count": "7", **output}
    parsed = {"ResponseMetadata": {"HTTPHeaders": headers}, "body": None}
    OPERATIONS["InvokeModel"](exchange, parsed, b"")
    assert len(tracker.embedding_token_counts) == embeds
    assert len(tracker.llm_token_counts) == (not embeds)
    assert tracker.total_embedding_token_count == (7 if embeds else 0)
