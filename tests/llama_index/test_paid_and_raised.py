"""Calls that raise though they were answered, or may have been."""

from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from llama_token_tracker import TokenCountingHandler
from tests.late import as_json, serving

GEMINI = {
    "candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}],
    "usageMetadata": {
        "promptTokenCount": 4_321,
        "thoughtsTokenCount": 8_018,
        "totalTokenCount": 12_339,
    },
    "modelVersion": "gemini-2.5-flash",
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "gpt-4o-mini",
    "parallel_tool_calls": True,
    "tool_choice": "none",
    "tools": [],
    "output": [
        {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "no json", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 337,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 21,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 358,
    },
}


class Song(BaseModel):
    """What is asked for."""

    title: str


def test_an_answer_that_its_integration_refuses_is_counted():
    """Gemini's thoughts took all there was: what was billed is in the answer at hand."""
    genai = pytest.importorskip("llama_index.llms.google_genai")
    handler = TokenCountingHandler()
    with serving(as_json(GEMINI)) as server:
        llm = genai.GoogleGenAI(
            model="gemini-2.5-flash",
            api_key="k",
            http_options={"base_url": server.url},
            context_window=9_999,
            max_tokens=99,
            callback_manager=CallbackManager([handler]),
        )
        with pytest.raises(Exception, match=r"(?s).+"):
            llm.complete("hello")
    (event,) = handler.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (4_321, 8_018)
    assert (event.status, event.source) == ("failed", "reported")


def test_a_structured_answer_that_does_not_parse_is_counted():
    """OpenAI's SDK raises, with the answer in hand."""
    openai = pytest.importorskip("llama_index.llms.openai")
    handler = TokenCountingHandler()
    with serving(as_json(RESPONSE)) as server:
        llm: Any = openai.OpenAIResponses(
            model="gpt-4o-mini",
            api_key="k",
            api_base=server.url + "/v1",
            max_retries=0,
            callback_manager=CallbackManager([handler]),
        )
        with pytest.raises(ValueError, match=r"(?s).+"):
            llm.structured_predict(Song, PromptTemplate("a song"))
    (event,) = handler.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (337, 21)
    assert (event.status, event.source) == ("failed", "reported")


def test_a_call_whose_answer_nobody_saw_is_marked_and_not_zero():
    """LlamaIndex's OpenAI, at a server that hangs up."""
    openai = pytest.importorskip("llama_index.llms.openai")
    handler = TokenCountingHandler()
    with serving(as_json({}), lost=9) as server:
        llm: Any = openai.OpenAI(
            model="gpt-4o-mini",
            api_key="k",
            api_base=server.url + "/v1",
            max_retries=0,
            callback_manager=CallbackManager([handler]),
        )
        with pytest.raises(Exception, match=r"(?i)connection"):
            llm.complete("one two three")
    (event,) = handler.llm_token_counts
    assert (event.status, event.completion_token_count) == ("unanswered", 0)
    assert event.prompt_token_count > 0
    assert handler.failed_calls == []
