"""Ollama: figures on the final chunk, beside the message."""

import pytest

from llama_token_tracker import Usage, extract_usage


def test_the_final_chunk():
    """Counts stand at the top of the body."""
    body = {"model": "m", "done": True, "prompt_eval_count": 26, "eval_count": 298}
    assert extract_usage(body) == Usage(input_tokens=26, output_tokens=298)


def test_the_sdks_object():
    """The SDK's response says the same."""
    ollama = pytest.importorskip("ollama")
    message = {"role": "assistant", "content": "hi"}
    response = ollama.ChatResponse(prompt_eval_count=26, eval_count=298, message=message)
    assert extract_usage(response) == Usage(input_tokens=26, output_tokens=298)
    assert extract_usage(ollama.ChatResponse(message=message)) is None


def test_llamaindexs_copy_adds_nothing():
    """LlamaIndex puts a copy in OpenAI's words beside the counts: they are one usage."""
    body = {
        "prompt_eval_count": 26,
        "eval_count": 298,
        "usage": {"prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324},
    }
    assert extract_usage(body) == Usage(input_tokens=26, output_tokens=298)


def test_a_cached_prompt_is_not_counted_by_ollama():
    """An absent prompt count is unknown, not zero."""
    assert extract_usage({"done": True, "eval_count": 298}) == Usage(output_tokens=298)


def test_a_stream():
    """Only the final chunk of a stream holds counts."""
    chunks = [{"done": False}, {"done": True, "prompt_eval_count": 26, "eval_count": 298}]
    assert extract_usage(chunks) == Usage(input_tokens=26, output_tokens=298)
