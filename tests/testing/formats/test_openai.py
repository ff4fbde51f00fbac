"""OpenAI's formats, as its own SDK reads them."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from llama_token_tracker import Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.testing.samples import ADDS, ASK, PLAIN, TEXT, THOUGHT

MODEL = "gpt-4o-mini"


@pytest.fixture
def client(provider: LoopbackProvider) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    with openai.OpenAI(**provider.arguments("openai")) as client:
        yield client


def test_chat_counts_are_inclusive(client: openai.OpenAI, provider: LoopbackProvider):
    """Prompt tokens contain the cache and completion tokens contain reasoning."""
    provider.script(Reply(TEXT, THOUGHT, tool_calls=ADDS))
    completion = client.chat.completions.create(model=MODEL, messages=ASK)
    usage: Any = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (22_734, 1_256)
    assert usage.prompt_tokens_details.cached_tokens == 21_500
    assert usage.completion_tokens_details.reasoning_tokens == 811
    assert completion.choices[0].message.content == TEXT
    [tool] = completion.choices[0].message.tool_calls or []
    assert tool.type == "function"
    assert tool.function.arguments == '{"a":20,"b":22}'


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_reports_only_when_asked(
    asked: bool, client: openai.OpenAI, provider: LoopbackProvider
):
    """With `include_usage` a last chunk without choices reports; without it none does."""
    provider.script(Reply(TEXT, THOUGHT))
    options: Any = {"stream_options": {"include_usage": True}} if asked else {}
    stream: Any = client.chat.completions.create(model=MODEL, messages=ASK, stream=True, **options)
    chunks = list(stream)
    reports = [chunk.usage.prompt_tokens for chunk in chunks if chunk.usage]
    assert reports == ([22_734] if asked else [])
    said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(said) == TEXT
    [call] = provider.settle()
    assert call.billed == THOUGHT
    assert call.reported == (THOUGHT if asked else None)


def test_a_streamed_tool_call_is_whole(client: openai.OpenAI, provider: LoopbackProvider):
    """The SDK's accumulator puts a tool's arguments together."""
    provider.script(Reply("", tool_calls=ADDS))
    with client.chat.completions.stream(model=MODEL, messages=ASK) as stream:
        message = stream.get_final_completion().choices[0].message
    [tool] = message.tool_calls or []
    assert (tool.function.name, tool.function.arguments) == ("add", '{"a":20,"b":22}')


def test_completions_report_plain_and_streamed(client: openai.OpenAI, provider: LoopbackProvider):
    """The old completions say the same in both forms."""
    provider.script(*[Reply(TEXT, THOUGHT)] * 2)
    ask: Any = {"model": "gpt-3.5-turbo-instruct", "prompt": "Which?"}
    completion = client.completions.create(**ask)
    *_, last = client.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    assert completion.choices[0].text == TEXT
    assert last.usage == completion.usage
    assert last.usage.completion_tokens == 1_256


def test_responses_report_plain_and_streamed(client: openai.OpenAI, provider: LoopbackProvider):
    """Responses say the same in the answer and in the stream's last event."""
    provider.script(*[Reply(TEXT, THOUGHT, tool_calls=ADDS, thinking="Hm.")] * 2)
    ask: Any = {"model": MODEL, "input": "Which?"}
    response = client.responses.create(**ask)
    events = list(client.responses.create(**ask, stream=True))
    assert response.output_text == TEXT
    assert response.usage.input_tokens == 22_734
    assert response.usage.output_tokens_details.reasoning_tokens == 811
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage == response.usage
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert said == TEXT
    assert [event.sequence_number for event in events] == list(range(len(events)))


@pytest.mark.parametrize(
    ("texts", "vectors"),
    [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3], [4]], 3)],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_an_embedding_bills_its_input(
    texts: Any, vectors: int, client: openai.OpenAI, provider: LoopbackProvider
):
    """Each text has a vector, whether it comes as words or as tokens, and only input is billed."""
    provider.script(Reply(usage=PLAIN))
    response = client.embeddings.create(model="text-embedding-3-small", input=texts)
    assert [item.embedding for item in response.data] == [[0.25, 0.5, 0.75]] * vectors
    assert response.usage.prompt_tokens == 20_011
    assert provider.billed == [Usage(input_tokens=20_011)]


def test_an_embedding_may_be_asked_for_in_floats(client: openai.OpenAI, provider: LoopbackProvider):
    """The SDK asks for base64 by itself; others ask for plain numbers."""
    provider.script(Reply(embedding=[1.0, -0.5]))
    response = client.embeddings.create(model="m", input="a", encoding_format="float")
    assert response.data[0].embedding == [1.0, -0.5]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ],
)
def test_an_error_has_its_class(
    status: int, error: type[Exception], client: openai.OpenAI, provider: LoopbackProvider
):
    """The SDK raises the class that belongs to the status, after one request that costs nothing."""
    provider.script(Reply(status=status))
    with pytest.raises(error):
        client.chat.completions.create(model=MODEL, messages=ASK)
    assert [(call.status, call.billed) for call in provider.calls] == [(status, None)]
