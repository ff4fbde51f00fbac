"""Gemini's, Ollama's, Mistral's and Cohere's formats, as their own SDKs read them."""

from typing import Any

import cohere
import ollama
from google import genai
from mistralai.client import Mistral

from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.testing.samples import ADDS, ASK, PLAIN, TEXT, THOUGHT

GEMINI: Any = {"model": "gemini-2.5-flash", "contents": "Which?"}


def test_gemini_counts_thoughts_on_top_of_candidates(provider: LoopbackProvider):
    """The prompt contains the cache; candidates don't contain thoughts."""
    provider.script(Reply(TEXT, THOUGHT, thinking="Hm.", tool_calls=ADDS))
    with genai.Client(**provider.arguments("gemini")) as client:
        response: Any = client.models.generate_content(**GEMINI)
    usage = response.usage_metadata
    assert usage.prompt_token_count == 22_734
    assert usage.cached_content_token_count == 21_500
    assert usage.candidates_token_count == 1_256 - 811
    assert usage.thoughts_token_count == 811
    thought, text, tool = response.candidates[0].content.parts
    assert thought.thought
    assert text.text == TEXT
    assert tool.function_call.args == {"a": 20, "b": 22}


def test_gemini_reports_in_every_chunk(provider: LoopbackProvider):
    """Each chunk repeats the prompt and counts the answer up."""
    provider.script(Reply(TEXT, THOUGHT, chunks=3))
    with genai.Client(**provider.arguments("gemini")) as client:
        chunks: list[Any] = list(client.models.generate_content_stream(**GEMINI))
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert {chunk.usage_metadata.prompt_token_count for chunk in chunks} == {22_734}
    totals = [chunk.usage_metadata.total_token_count for chunk in chunks]
    assert totals == sorted(totals)
    assert totals[-1] == 22_734 + 1_256


def test_ollama_reports_beside_the_last_message(provider: LoopbackProvider):
    """Only the line that is done carries the counts."""
    provider.script(*[Reply(TEXT, PLAIN, tool_calls=ADDS)] * 2)
    with ollama.Client(**provider.arguments("ollama")) as client:
        whole: Any = client.chat(model="llama3.2", messages=ASK)
        *lines, last = client.chat(model="llama3.2", messages=ASK, stream=True)
    assert (whole.prompt_eval_count, whole.eval_count) == (20_011, 3_001)
    assert whole.message.tool_calls[0].function.arguments == {"a": 20, "b": 22}
    assert all(line.eval_count is None for line in lines)
    assert (last.prompt_eval_count, last.eval_count) == (20_011, 3_001)
    assert "".join(line.message.content or "" for line in lines) == TEXT


def test_mistral_reports_with_the_finish(provider: LoopbackProvider):
    """A stream's last chunk carries the counts that a whole answer carries."""
    provider.script(*[Reply(TEXT, PLAIN)] * 2)
    ask: Any = {"model": "mistral-small-latest", "messages": ASK}
    with Mistral(**provider.arguments("mistral")) as client:
        whole = client.chat.complete(**ask)
        chunks: list[Any] = [event.data for event in client.chat.stream(**ask)]
    assert whole.choices[0].message.content == TEXT
    assert whole.usage.prompt_tokens == 20_011
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == TEXT
    assert chunks[-1].usage.completion_tokens == 3_001


def test_cohere_bills_less_than_it_sees(provider: LoopbackProvider):
    """`billed_units` is the bill; `tokens` is more, in a whole answer and at a stream's end."""
    provider.script(*[Reply(TEXT, PLAIN)] * 2)
    with cohere.Client(**provider.arguments("cohere")) as client:
        whole: Any = client.chat(message="Which?", model="command-r")
        *_, last = client.chat_stream(message="Which?", model="command-r")
    end: Any = last
    for meta in (whole.meta, end.response.meta):
        assert meta.billed_units.input_tokens == 20_011
        assert meta.billed_units.output_tokens == 3_001
        assert meta.tokens.input_tokens > 20_011
    assert whole.text == end.response.text == TEXT


def test_what_a_format_has_no_words_for_goes_unreported(provider: LoopbackProvider):
    """Ollama knows neither cache nor reasoning: both are billed, and neither is reported."""
    provider.script(Reply(TEXT, THOUGHT))
    with ollama.Client(**provider.arguments("ollama")) as client:
        client.chat(model="llama3.2", messages=ASK)
    [call] = provider.calls
    assert call.billed == THOUGHT
    assert call.reported is not None
    assert call.reported.reported() == {"input_tokens": 22_734, "output_tokens": 1_256}
