"""OpenAI's dialect: chat completions, responses, embeddings, and those who speak it too."""

from typing import Any

import pytest

from llama_token_tracker import Usage, extract_usage
from llama_token_tracker.extraction import SHAPES

CHAT: dict[str, Any] = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 12, "image_tokens": 30},
    "completion_tokens_details": {
        "reasoning_tokens": 192,
        "audio_tokens": 8,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
CHAT_USAGE = Usage(
    input_tokens=2006,
    output_tokens=300,
    cache_read_tokens=1920,
    input_audio_tokens=12,
    input_image_tokens=30,
    reasoning_tokens=192,
    output_audio_tokens=8,
)
RESPONSES: dict[str, Any] = {
    "input_tokens": 328,
    "input_tokens_details": {"cached_tokens": 256, "cache_write_tokens": 64},
    "output_tokens": 52,
    "output_tokens_details": {"reasoning_tokens": 40},
    "total_tokens": 380,
}
RESPONSES_USAGE = Usage(
    input_tokens=328,
    output_tokens=52,
    cache_read_tokens=256,
    cache_write_tokens=64,
    reasoning_tokens=40,
)


def test_a_chat_completion_as_json():
    """`prompt_tokens` holds cached tokens, `completion_tokens` holds reasoning."""
    assert extract_usage({"id": "x", "choices": [], "usage": CHAT}) == CHAT_USAGE


def test_a_chat_completion_as_sdk_object():
    """The SDK's object says what its JSON says, fields the SDK doesn't know yet included."""
    chat = pytest.importorskip("openai.types.chat")
    body = {
        "id": "x",
        "choices": [],
        "created": 1,
        "model": "gpt",
        "object": "chat.completion",
        "usage": CHAT,
    }
    assert extract_usage(chat.ChatCompletion.model_validate(body)) == CHAT_USAGE
    assert extract_usage(chat.ChatCompletion.construct(**body)) == CHAT_USAGE


def test_the_last_chunk_of_a_stream():
    """With `include_usage` a last chunk without choices holds the figures, others hold null."""
    chat = pytest.importorskip("openai.types.chat")
    common = {"id": "x", "created": 1, "model": "gpt", "object": "chat.completion.chunk"}
    chunks = [
        chat.ChatCompletionChunk(**common, choices=[], usage=None),
        chat.ChatCompletionChunk(**common, choices=[], usage=CHAT),
    ]
    assert extract_usage(chunks[0]) is None
    assert extract_usage(chunks) == CHAT_USAGE


def test_a_response_as_json_and_as_sdk_object():
    """The Responses API includes cache and reasoning, as chat completions do."""
    responses = pytest.importorskip("openai.types.responses")
    body = {"id": "r", "object": "response", "output": [], "usage": RESPONSES}
    assert extract_usage(body) == RESPONSES_USAGE
    assert extract_usage(responses.Response.construct(**body)) == RESPONSES_USAGE
    usage = responses.ResponseUsage.model_validate(
        {**RESPONSES, "input_tokens_details": {"cached_tokens": 256, "cache_write_tokens": 64}}
    )
    assert extract_usage({"usage": usage}) == RESPONSES_USAGE


def test_a_responses_stream():
    """The completed event holds the response, and that the usage."""
    responses = pytest.importorskip("openai.types.responses")
    event = {"type": "response.completed", "response": {"id": "r", "usage": RESPONSES}}
    assert extract_usage(event) == RESPONSES_USAGE
    assert extract_usage([{"type": "response.created", "response": {}}, event]) == RESPONSES_USAGE
    completed = responses.ResponseCompletedEvent.construct(
        response=responses.Response.construct(usage=responses.ResponseUsage.construct(**RESPONSES))
    )
    assert extract_usage(completed) == RESPONSES_USAGE


def test_embeddings():
    """Embeddings report a prompt and a total, and no output at all."""
    types = pytest.importorskip("openai.types")
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    assert extract_usage({"data": [], "usage": usage}) == Usage(input_tokens=8)
    body = types.CreateEmbeddingResponse(data=[], model="e", object="list", usage=usage)
    assert extract_usage(body) == Usage(input_tokens=8)


@pytest.mark.parametrize("details", [{}, None, {"cached_tokens": None}])
def test_missing_details_are_not_zeros(details: object):
    """A provider that sends no details, or nulls, reports none."""
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": details}
    assert extract_usage({"usage": usage}) == Usage(input_tokens=5, output_tokens=2)


def test_reasoning_outside_of_the_completion_is_added():
    """Reasoning that xAI leaves out of `completion_tokens` is found by its total."""
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": 135,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 94},
    }
    assert extract_usage({"usage": usage}) == Usage(
        input_tokens=32, output_tokens=103, cache_read_tokens=8, reasoning_tokens=94
    )


def test_reasoning_that_exceeds_the_completion_is_added():
    """Without a total, a part larger than its whole cannot be in it."""
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "completion_tokens_details": {"reasoning_tokens": 94},
    }
    assert extract_usage({"usage": usage}) == Usage(
        input_tokens=32, output_tokens=103, reasoning_tokens=94
    )


def test_a_gateways_gross_prompt_is_not_summed_twice():
    """LiteLLM puts Anthropic's cache keys beside a `prompt_tokens` that holds them already."""
    usage = {
        "prompt_tokens": 21_503,
        "completion_tokens": 50,
        "total_tokens": 21_553,
        "prompt_tokens_details": {"cached_tokens": 21_400},
        "cache_read_input_tokens": 21_400,
        "cache_creation_input_tokens": 100,
    }
    assert extract_usage({"usage": usage}) == Usage(
        input_tokens=21_503, output_tokens=50, cache_read_tokens=21_400, cache_write_tokens=100
    )


@pytest.mark.parametrize("total", [22_790, None])
def test_a_net_prompt_gets_its_cache_back(total: int | None):
    """LlamaIndex's copy of Converse's figures leaves the cache out of `prompt_tokens`."""
    copy = {
        "prompt_tokens": 1_234,
        "completion_tokens": 56,
        "total_tokens": total,
        "cache_read_input_tokens": 21_000,
        "cache_creation_input_tokens": 500,
    }
    assert extract_usage({"usage": copy}) == Usage(
        input_tokens=22_734, output_tokens=56, cache_read_tokens=21_000, cache_write_tokens=500
    )


def test_deepseeks_name_for_cached_tokens():
    """`prompt_cache_hit_tokens` are cached tokens, and named once if both names are there."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "total_tokens": 105,
        "prompt_cache_hit_tokens": 64,
        "prompt_cache_miss_tokens": 36,
        "prompt_tokens_details": {"cached_tokens": 64},
    }
    assert extract_usage({"usage": usage}) == Usage(
        input_tokens=100, output_tokens=5, cache_read_tokens=64
    )


def test_groq_puts_a_streams_usage_in_a_place_of_its_own():
    """Groq's last chunk holds `x_groq.usage`."""
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert extract_usage({"choices": [], "x_groq": {"id": "x", "usage": usage}}) == Usage(
        input_tokens=5, output_tokens=2
    )


def test_mistral_speaks_it_too():
    """Mistral's SDK object holds OpenAI's three keys."""
    models = pytest.importorskip("mistralai.client.models")
    usage = models.UsageInfo(prompt_tokens=9, completion_tokens=4, total_tokens=13)
    body = models.ChatCompletionResponse.model_construct(id="x", usage=usage)
    assert extract_usage(usage) == extract_usage(body) == Usage(input_tokens=9, output_tokens=4)


def test_every_table_names_its_source():
    """A table says where the provider documents its shape, and when that was read."""
    for shape in SHAPES:
        assert shape.source.startswith("https://"), shape.name
        assert shape.checked.year >= 2026, shape.name
