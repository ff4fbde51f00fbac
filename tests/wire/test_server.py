"""The formats, verified by the real SDKs: they parse what is sent and see the scripted bill."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .clients import bedrock_client
from .replies import Billed, Reply, ToolCall, figures
from .server import LoopbackProvider
from .styles import Run

BILL = Billed(input=22_734, output=1_256, cache_read=21_500, cache_write=701, cache_write_1h=200)
UNCACHED = BILL.input - 21_500 - 701
THOUGHT = Billed(input=22_734, output=1_256, cache_read=21_500, reasoning=811)
TEXT = "Canberra is the capital."
ADDS = (ToolCall("add", {"a": 20, "b": 22}),)
CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
ASK: list[Any] = [{"role": "user", "content": "Which?"}]
ASK_CONVERSE: list[Any] = [{"role": "user", "content": [{"text": "Which?"}]}]


def _body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _invoke(provider: LoopbackProvider, model: str, **fields: object) -> tuple[Any, dict[str, str]]:
    client = bedrock_client(provider.url("bedrock"))
    response = client.invoke_model(modelId=model, body=_body(**fields))
    return json.loads(response["body"].read()), response["ResponseMetadata"]["HTTPHeaders"]


def _invoke_stream(provider: LoopbackProvider, model: str) -> list[Any]:
    client = bedrock_client(provider.url("bedrock"))
    response = client.invoke_model_with_response_stream(modelId=model, body=_body())
    return [json.loads(event["chunk"]["bytes"]) for event in response["body"]]


# --- Bedrock ---------------------------------------------------------------------------------


def test_invoke_model_answers_as_claude_with_headers(provider: LoopbackProvider) -> None:
    """Claude's body and the headers both leave the cache out of the input."""
    provider.script(Reply(text=TEXT, usage=BILL))
    body, headers = _invoke(provider, CLAUDE, messages=ASK)
    assert body["content"] == [{"type": "text", "text": TEXT}]
    assert body["usage"]["input_tokens"] == UNCACHED
    assert body["usage"]["cache_creation"]["ephemeral_5m_input_tokens"] == 501
    counts = {
        name: headers[f"x-amzn-bedrock-{name}-token-count"]
        for name in ("input", "output", "cache-read-input", "cache-write-input")
    }
    assert counts == {
        "input": str(UNCACHED),
        "output": "1256",
        "cache-read-input": "21500",
        "cache-write-input": "701",
    }


def test_titan_answers_in_its_own_shape(provider: LoopbackProvider) -> None:
    """Titan counts the input at the top and the output in its results."""
    provider.script(Reply(text=TEXT, usage=Billed(20_011, 3_001)))
    body, headers = _invoke(provider, "amazon.titan-text-express-v1", inputText="Which?")
    assert body["inputTextTokenCount"] == 20_011
    [result] = body["results"]
    assert (result["tokenCount"], result["outputText"]) == (3_001, TEXT)
    assert headers["x-amzn-bedrock-input-token-count"] == "20011"


def test_llama_answers_in_its_own_shape(provider: LoopbackProvider) -> None:
    """Llama counts prompt and generation beside the text."""
    provider.script(Reply(text=TEXT, usage=Billed(20_011, 3_001)))
    body, headers = _invoke(provider, "meta.llama2-13b-chat-v1", prompt="Which?")
    assert body["generation"] == TEXT
    assert (body["prompt_token_count"], body["generation_token_count"]) == (20_011, 3_001)
    assert headers["x-amzn-bedrock-output-token-count"] == "3001"


def test_mistral_on_bedrock_reports_in_headers_alone(provider: LoopbackProvider) -> None:
    """The body of a Mistral model says nothing of tokens."""
    provider.script(Reply(text=TEXT, usage=Billed(20_011, 3_001)))
    body, headers = _invoke(provider, "mistral.mistral-7b-instruct-v0:2", prompt="Which?")
    assert body == {"outputs": [{"text": TEXT, "stop_reason": "stop"}]}
    assert headers["x-amzn-bedrock-output-token-count"] == "3001"


@pytest.mark.parametrize(
    "model",
    [
        CLAUDE,
        "amazon.titan-text-express-v1",
        "meta.llama2-13b-chat-v1",
        "mistral.mistral-7b-instruct-v0:2",
    ],
)
def test_response_streams_end_with_invocation_metrics(
    provider: LoopbackProvider, model: str
) -> None:
    """The frames have checksums that botocore accepts, and the last chunk carries the metrics."""
    provider.script(Reply(text=TEXT, usage=BILL, terse=True))
    *_, last = _invoke_stream(provider, model)
    metrics = last["amazon-bedrock-invocationMetrics"]
    assert metrics["inputTokenCount"] == UNCACHED
    assert metrics["outputTokenCount"] == 1_256
    assert metrics["cacheReadInputTokenCount"] == 21_500
    [call] = provider.settle()
    assert call.usage_on_wire
    assert call.ended == "finished"
    assert call.model == model


def test_converse_leaves_the_cache_out_of_the_input(provider: LoopbackProvider) -> None:
    """Converse's three input buckets are apart, and its total is all of them."""
    provider.script(Reply(text=TEXT, usage=BILL, tool_calls=ADDS))
    client = bedrock_client(provider.url("bedrock"))
    response = client.converse(modelId=CLAUDE, messages=ASK_CONVERSE)
    usage = response["usage"]
    assert usage["inputTokens"] == UNCACHED
    assert usage["cacheReadInputTokens"] == 21_500
    assert usage["cacheWriteInputTokens"] == 701
    assert usage["totalTokens"] == 22_734 + 1_256
    text, tool = response["output"]["message"]["content"]
    assert text == {"text": TEXT}
    assert tool["toolUse"]["input"] == {"a": 20, "b": 22}


def test_converse_streams_end_with_metadata(provider: LoopbackProvider) -> None:
    """A ConverseStream sends text, tool input as partial JSON, and last of all its usage."""
    provider.script(Reply(text=TEXT, usage=BILL, tool_calls=ADDS))
    client = bedrock_client(provider.url("bedrock"))
    events = list(client.converse_stream(modelId=CLAUDE, messages=ASK_CONVERSE)["stream"])
    deltas = [e["contentBlockDelta"]["delta"] for e in events if "contentBlockDelta" in e]
    assert "".join(delta.get("text", "") for delta in deltas) == TEXT
    tool = "".join(delta["toolUse"]["input"] for delta in deltas if "toolUse" in delta)
    assert json.loads(tool) == {"a": 20, "b": 22}
    assert events[-1]["metadata"]["usage"]["inputTokens"] == UNCACHED


def test_embeddings_on_bedrock_report_the_input(provider: LoopbackProvider) -> None:
    """Titan says it in the body, Cohere in a header."""
    provider.script(Reply(usage=Billed(20_011, 0)), Reply(usage=Billed(20_021, 0)))
    body, _ = _invoke(provider, "amazon.titan-embed-text-v2:0", inputText="Which?")
    assert body == {"embedding": [0.25, 0.5, 0.75], "inputTextTokenCount": 20_011}
    body, headers = _invoke(provider, "cohere.embed-english-v3", texts=["a", "b"])
    assert len(body["embeddings"]) == 2
    assert headers["x-amzn-bedrock-input-token-count"] == "20021"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ValidationException"),
        (401, "UnrecognizedClientException"),
        (429, "ThrottlingException"),
        (500, "InternalServerException"),
    ],
)
def test_bedrock_errors_carry_their_type(
    provider: LoopbackProvider, status: int, code: str
) -> None:
    """The header names the error's type, botocore reads it, and the call isn't billed."""
    from botocore.exceptions import ClientError

    provider.script(Reply(status=status))
    client = bedrock_client(provider.url("bedrock"))
    with pytest.raises(ClientError) as caught:
        client.converse(modelId=CLAUDE, messages=ASK_CONVERSE)
    assert caught.value.response["Error"]["Code"] == code
    assert provider.billed == []
    assert len(provider.calls) == 1


# --- Anthropic -------------------------------------------------------------------------------


def _anthropic(provider: LoopbackProvider) -> Any:
    anthropic = pytest.importorskip("anthropic")
    return anthropic.Anthropic(api_key="none", base_url=provider.url("anthropic"), max_retries=0)


def test_anthropic_messages_split_the_input_in_three(provider: LoopbackProvider) -> None:
    """The SDK reads uncached, written and read input apart."""
    provider.script(Reply(text=TEXT, usage=BILL, tool_calls=ADDS))
    message = _anthropic(provider).messages.create(
        model="claude-3-haiku-20240307", max_tokens=9, messages=ASK
    )
    usage = message.usage
    assert usage.input_tokens == UNCACHED
    assert usage.cache_read_input_tokens == 21_500
    assert usage.cache_creation_input_tokens == 701
    assert usage.cache_creation.ephemeral_1h_input_tokens == 200
    assert message.content[1].input == {"a": 20, "b": 22}


@pytest.mark.parametrize("terse", [False, True])
def test_anthropic_streams_report_first_and_last(provider: LoopbackProvider, terse: bool) -> None:
    """The SDK's accumulator ends with the whole bill, from one event or from two."""
    provider.script(Reply(text=TEXT, thinking="Hm.", usage=BILL, tool_calls=ADDS, terse=terse))
    with _anthropic(provider).messages.stream(
        model="claude-3-haiku-20240307", max_tokens=9, messages=ASK
    ) as stream:
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[1].text == TEXT
    assert message.content[2].input == {"a": 20, "b": 22}
    assert message.usage.output_tokens == 1_256
    assert message.usage.input_tokens == UNCACHED
    assert message.usage.cache_read_input_tokens == 21_500
    assert provider.settle()[0].usage_on_wire


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
    ],
)
def test_anthropic_errors_have_their_class(
    provider: LoopbackProvider, status: int, name: str
) -> None:
    """The SDK raises the class that belongs to the status, after one request."""
    import anthropic

    provider.script(Reply(status=status))
    with pytest.raises(getattr(anthropic, name)):
        _anthropic(provider).messages.create(model="m", max_tokens=9, messages=ASK)
    assert [call.status for call in provider.calls] == [status]


# --- OpenAI ----------------------------------------------------------------------------------


def _openai(provider: LoopbackProvider) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(api_key="none", base_url=provider.url("openai") + "/v1", max_retries=0)


def test_openai_chat_counts_are_inclusive(provider: LoopbackProvider) -> None:
    """Prompt tokens contain the cache and completion tokens contain reasoning."""
    provider.script(Reply(text=TEXT, usage=THOUGHT, tool_calls=ADDS))
    completion = _openai(provider).chat.completions.create(model="gpt-4o-mini", messages=ASK)
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (22_734, 1_256)
    assert usage.prompt_tokens_details.cached_tokens == 21_500
    assert usage.completion_tokens_details.reasoning_tokens == 811
    assert completion.choices[0].message.content == TEXT


@pytest.mark.parametrize("asked", [True, False])
def test_openai_streams_report_only_when_asked(provider: LoopbackProvider, asked: bool) -> None:
    """With `include_usage` a last chunk without choices reports; without it none does."""
    provider.script(Reply(text=TEXT, usage=THOUGHT))
    chunks = list(
        _openai(provider).chat.completions.create(
            model="gpt-4o-mini",
            messages=ASK,
            stream=True,
            **({"stream_options": {"include_usage": True}} if asked else {}),
        )
    )
    reports = [chunk.usage for chunk in chunks if chunk.usage]
    assert [usage.prompt_tokens for usage in reports] == ([22_734] if asked else [])
    said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(said) == TEXT
    assert provider.settle()[0].usage_on_wire is asked


def test_openai_completions_report_plain_and_streamed(provider: LoopbackProvider) -> None:
    """The old completions say the same in both forms."""
    provider.script(Reply(text=TEXT, usage=THOUGHT), Reply(text=TEXT, usage=THOUGHT))
    ask: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "Which?"}
    completion = _openai(provider).completions.create(**ask)
    *_, last = _openai(provider).completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    assert completion.choices[0].text == TEXT
    assert last.usage == completion.usage
    assert last.usage.completion_tokens == 1_256


def test_openai_responses_report_plain_and_streamed(provider: LoopbackProvider) -> None:
    """Responses say the same in the answer and in the stream's last event."""
    provider.script(*[Reply(text=TEXT, usage=THOUGHT, tool_calls=ADDS, thinking="Hm.")] * 2)
    ask: dict[str, Any] = {"model": "gpt-4o-mini", "input": "Which?"}
    response = _openai(provider).responses.create(**ask)
    events = list(_openai(provider).responses.create(**ask, stream=True))
    assert response.output_text == TEXT
    assert response.usage.input_tokens == 22_734
    assert response.usage.output_tokens_details.reasoning_tokens == 811
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage == response.usage
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert said == TEXT


def test_openai_embeddings_report_the_prompt(provider: LoopbackProvider) -> None:
    """The SDK unpacks the vectors and sees the count."""
    provider.script(Reply(usage=Billed(20_011, 0)))
    response = _openai(provider).embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert [item.embedding for item in response.data] == [[0.25, 0.5, 0.75]] * 2
    assert response.usage.prompt_tokens == 20_011


# --- Gemini ----------------------------------------------------------------------------------


def _gemini(provider: LoopbackProvider) -> Any:
    genai = pytest.importorskip("google.genai")
    options = genai.types.HttpOptions(base_url=provider.url("gemini"))
    return genai.Client(api_key="none", http_options=options)


def test_gemini_thoughts_come_on_top_of_candidates(provider: LoopbackProvider) -> None:
    """The prompt contains the cache; candidates don't contain thoughts."""
    provider.script(Reply(text=TEXT, usage=THOUGHT, thinking="Hm.", tool_calls=ADDS))
    client = _gemini(provider)
    response = client.models.generate_content(model="gemini-2.5-flash", contents="Which?")
    usage = response.usage_metadata
    assert usage.prompt_token_count == 22_734
    assert usage.cached_content_token_count == 21_500
    assert usage.candidates_token_count == 1_256 - 811
    assert usage.thoughts_token_count == 811
    thought, text, tool = response.candidates[0].content.parts
    assert thought.thought
    assert text.text == TEXT
    assert tool.function_call.args == {"a": 20, "b": 22}


def test_gemini_streams_report_in_every_chunk(provider: LoopbackProvider) -> None:
    """Each chunk repeats the prompt and counts the answer up."""
    provider.script(Reply(text=TEXT, usage=THOUGHT, chunks=3))
    client = _gemini(provider)
    chunks = list(
        client.models.generate_content_stream(model="gemini-2.5-flash", contents="Which?")
    )
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert {chunk.usage_metadata.prompt_token_count for chunk in chunks} == {22_734}
    totals = [chunk.usage_metadata.total_token_count for chunk in chunks]
    assert totals == sorted(totals)
    assert totals[-1] == 22_734 + 1_256


# --- Ollama, Mistral, Cohere -----------------------------------------------------------------


def test_ollama_reports_beside_the_last_message(provider: LoopbackProvider) -> None:
    """Only the line that is done carries the counts."""
    ollama = pytest.importorskip("ollama")
    provider.script(*[Reply(text=TEXT, usage=Billed(20_011, 3_001), tool_calls=ADDS)] * 2)
    client = ollama.Client(host=provider.url("ollama"))
    whole = client.chat(model="llama3.2", messages=ASK)
    *lines, last = client.chat(model="llama3.2", messages=ASK, stream=True)
    assert (whole.prompt_eval_count, whole.eval_count) == (20_011, 3_001)
    assert whole.message.tool_calls[0].function.arguments == {"a": 20, "b": 22}
    assert all(line.eval_count is None for line in lines)
    assert (last.prompt_eval_count, last.eval_count) == (20_011, 3_001)
    assert "".join(line.message.content for line in lines) == TEXT


def test_mistral_reports_with_the_finish(provider: LoopbackProvider) -> None:
    """A stream's last chunk carries the counts that a whole answer carries."""
    client_module = pytest.importorskip("mistralai.client")
    provider.script(*[Reply(text=TEXT, usage=Billed(20_011, 3_001))] * 2)
    client = client_module.Mistral(api_key="none", server_url=provider.url("mistral"))
    ask: dict[str, Any] = {"model": "mistral-small-latest", "messages": ASK}
    whole = client.chat.complete(**ask)
    chunks = [event.data for event in client.chat.stream(**ask)]
    assert whole.choices[0].message.content == TEXT
    assert whole.usage.prompt_tokens == 20_011
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == TEXT
    assert chunks[-1].usage.completion_tokens == 3_001


def test_cohere_bills_less_than_it_sees(provider: LoopbackProvider) -> None:
    """`billed_units` is the bill; `tokens` is more, in a whole answer and at a stream's end."""
    cohere = pytest.importorskip("cohere")
    provider.script(*[Reply(text=TEXT, usage=Billed(20_011, 3_001))] * 2)
    client = cohere.Client("none", base_url=provider.url("cohere"))
    whole = client.chat(message="Which?", model="command-r")
    *_, last = client.chat_stream(message="Which?", model="command-r")
    for meta in (whole.meta, last.response.meta):
        assert meta.billed_units.input_tokens == 20_011
        assert meta.billed_units.output_tokens == 3_001
        assert meta.tokens.input_tokens > 20_011
    assert whole.text == last.response.text == TEXT


# --- The server itself -----------------------------------------------------------------------


def test_a_cut_stream_says_where_it_was_cut(provider: LoopbackProvider) -> None:
    """A cut reaches the client as an error, and the call knows that its usage never went out."""
    import httpx

    provider.script(Reply(text=TEXT, usage=BILL, cut_after=2))
    message = {"role": "user", "content": "Which?"}
    ask = {"model": "m", "stream": True, "messages": [message]}
    with (
        httpx.stream("POST", provider.url("openai") + "/v1/chat/completions", json=ask) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        response.read()
    [call] = provider.settle()
    assert call.ended == "cut"
    assert call.billed == BILL
    assert not call.usage_on_wire


def test_a_silent_answer_is_billed_all_the_same(provider: LoopbackProvider) -> None:
    """With `usage_missing` nothing is on the wire, and the provider still knows the bill."""
    provider.script(Reply(text=TEXT, usage=BILL, usage_missing=True))
    body, headers = _invoke(provider, CLAUDE, messages=ASK)
    assert "usage" not in body
    assert not [name for name in headers if name.endswith("token-count")]
    [call] = provider.calls
    assert call.billed == BILL
    assert not call.usage_on_wire


def test_unscripted_calls_never_share_a_figure() -> None:
    """The provider's own figures are primes, so that no sum of some equals another by chance."""
    drawn = [bill for bill, _ in zip(figures(), range(200), strict=False)]
    assert len({bill.input for bill in drawn} | {bill.output for bill in drawn}) == 400


def test_impossible_bills_are_refused() -> None:
    """A bill whose parts exceed the whole can't be written."""
    with pytest.raises(ValueError, match="cache reads and writes"):
        Billed(input=10, output=1, cache_read=6, cache_write=5)
    with pytest.raises(ValueError, match="reasoning"):
        Billed(input=10, output=1, reasoning=2)


def test_many_clients_are_served_at_once(provider: LoopbackProvider, run: Run) -> None:
    """Fifty answers that each take a while overlap, and each has figures of its own."""
    import asyncio

    import httpx

    async def ask() -> list[Any]:
        async with httpx.AsyncClient(timeout=30) as client:
            url = provider.url("openai") + "/v1/chat/completions"
            asks = (client.post(url, json={"model": "m", "messages": ASK}) for _ in range(50))
            return [answer.json() for answer in await asyncio.gather(*asks)]

    totals = [answer["usage"]["total_tokens"] for answer in run(ask())]
    assert sorted(totals) == sorted(bill.total for bill in provider.billed)
    assert len(set(totals)) == 50
