"""Anthropic's formats, as its own SDK reads them."""

from collections.abc import Iterator

import anthropic
import pytest

from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.testing.samples import ADDS, ASK, CACHED, PLAIN, TEXT, THOUGHT, UNCACHED

MODEL = "claude-3-haiku-20240307"


@pytest.fixture
def client(provider: LoopbackProvider) -> Iterator[anthropic.Anthropic]:
    """Anthropic's own client."""
    with anthropic.Anthropic(**provider.arguments("anthropic")) as client:
        yield client


def test_the_input_is_split_in_three(client: anthropic.Anthropic, provider: LoopbackProvider):
    """The SDK reads uncached, written and read input apart."""
    provider.script(Reply(TEXT, CACHED, tool_calls=ADDS))
    message = client.messages.create(model=MODEL, max_tokens=9, messages=ASK)
    assert message.usage.input_tokens == UNCACHED
    assert message.usage.cache_read_input_tokens == 21_500
    assert message.usage.cache_creation_input_tokens == 701
    assert message.usage.cache_creation is not None
    assert message.usage.cache_creation.ephemeral_1h_input_tokens == 200
    text, tool = message.content
    assert (text.type, tool.type) == ("text", "tool_use")
    assert tool.input == {"a": 20, "b": 22}
    [call] = provider.calls
    assert call.reported == call.billed == CACHED


@pytest.mark.parametrize("terse", [False, True])
def test_a_stream_reports_first_and_last(
    terse: bool, client: anthropic.Anthropic, provider: LoopbackProvider
):
    """The SDK's accumulator ends with the whole bill, from one event or from two."""
    provider.script(Reply(TEXT, CACHED, thinking="Hm.", tool_calls=ADDS, terse=terse))
    with client.messages.stream(model=MODEL, max_tokens=9, messages=ASK) as stream:
        message = stream.get_final_message()
    thinking, text, tool = message.content
    assert (thinking.type, text.type, tool.type) == ("thinking", "text", "tool_use")
    assert text.text == TEXT
    assert tool.input == {"a": 20, "b": 22}
    assert message.usage.output_tokens == 1_256
    assert message.usage.input_tokens == UNCACHED
    assert message.usage.cache_read_input_tokens == 21_500
    [call] = provider.settle()
    assert call.reported == call.billed == CACHED


@pytest.mark.parametrize("terse", [False, True])
def test_reasoning_is_said_only_at_a_full_end(
    terse: bool, client: anthropic.Anthropic, provider: LoopbackProvider
):
    """A terse end has no room for reasoning, and the call says that it wasn't reported."""
    provider.script(Reply(TEXT, THOUGHT, terse=terse))
    with client.messages.stream(model=MODEL, max_tokens=9, messages=ASK) as stream:
        stream.until_done()
    [call] = provider.settle()
    assert call.billed == THOUGHT
    assert call.reported is not None
    assert call.reported.output_tokens == 1_256
    assert call.reported.reasoning_tokens == (None if terse else 811)


def test_a_count_is_the_input_and_free(client: anthropic.Anthropic, provider: LoopbackProvider):
    """`count_tokens` answers with the scripted input, and nothing is billed."""
    provider.script(Reply(usage=PLAIN))
    assert client.messages.count_tokens(model=MODEL, messages=ASK).input_tokens == 20_011
    [call] = provider.calls
    assert call.api == "anthropic.count_tokens"
    assert call.billed is None
    assert provider.billed == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
    ],
)
def test_an_error_has_its_class(
    status: int,
    error: type[Exception],
    client: anthropic.Anthropic,
    provider: LoopbackProvider,
):
    """The SDK raises the class that belongs to the status, after one request that costs nothing."""
    provider.script(Reply(status=status))
    with pytest.raises(error):
        client.messages.create(model="m", max_tokens=9, messages=ASK)
    assert [(call.status, call.billed) for call in provider.calls] == [(status, None)]


def test_no_two_answers_share_an_id(client: anthropic.Anthropic):
    """Who tells answers apart by id, in the body or in the header, can."""
    answers = [client.messages.create(model=MODEL, max_tokens=9, messages=ASK) for _ in range(2)]
    assert len({answer.id for answer in answers}) == 2
    assert len({answer._request_id for answer in answers} - {None}) == 2
