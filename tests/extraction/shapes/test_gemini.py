"""Gemini, in JSON and in its SDK."""

import pytest

from llama_token_tracker import Usage, extract_usage

FULL = Usage(
    input_tokens=112,
    output_tokens=75,
    cache_read_tokens=40,
    reasoning_tokens=70,
    input_audio_tokens=20,
    input_image_tokens=30,
)


def test_json():
    """Thoughts and the prompts of tools are extra; cached tokens are in the prompt."""
    metadata = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 40,
        "toolUsePromptTokenCount": 12,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 70,
        "totalTokenCount": 187,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 50},
            {"modality": "AUDIO", "tokenCount": 20},
            {"modality": "IMAGE", "tokenCount": 30},
        ],
    }
    assert extract_usage({"candidates": [], "usageMetadata": metadata}) == FULL


def test_sdk_object():
    """The SDK writes the same in snake case, with enumerations for modalities."""
    types = pytest.importorskip("google.genai.types")
    metadata = types.GenerateContentResponseUsageMetadata(
        prompt_token_count=100,
        cached_content_token_count=40,
        tool_use_prompt_token_count=12,
        candidates_token_count=5,
        thoughts_token_count=70,
        total_token_count=187,
        prompt_tokens_details=[
            types.ModalityTokenCount(modality="AUDIO", token_count=20),
            types.ModalityTokenCount(modality="IMAGE", token_count=30),
        ],
    )
    response = types.GenerateContentResponse(usage_metadata=metadata)
    assert extract_usage(response) == FULL
    # LlamaIndex dumps the metadata into a dict of its own.
    dumped = {"content": {}, "usage_metadata": metadata.model_dump()}
    assert extract_usage(dumped) == FULL
    assert extract_usage({"usage_metadata": metadata}) == FULL


def test_thoughts_alone():
    """A model that thought and said nothing was billed for the thoughts."""
    metadata = {
        "prompt_token_count": 12,
        "candidates_token_count": None,
        "thoughts_token_count": 400,
    }
    assert extract_usage({"usage_metadata": metadata}) == Usage(
        input_tokens=12, output_tokens=400, reasoning_tokens=400
    )


def test_a_prompt_alone():
    """A blocked prompt has no candidates: the output is not reported."""
    assert extract_usage({"usage_metadata": {"prompt_token_count": 12}}) == Usage(input_tokens=12)
    assert extract_usage({"usageMetadata": {"promptTokenCount": 12}}) == Usage(input_tokens=12)


def test_a_stream():
    """Each chunk counts from the start: the last figures stand."""
    chunks = [
        {"usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 1}},
        {"usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 9}},
    ]
    assert extract_usage(chunks) == Usage(input_tokens=12, output_tokens=9)
