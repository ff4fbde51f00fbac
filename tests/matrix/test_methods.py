"""Which methods of the integrations call a provider: known from the classes, for every one."""

import asyncio
import gc
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import llama_index.llms
import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index_instrumentation import DISPATCHER_SPAN_DECORATED_ATTR

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.llama_index.span_tree import SPANS
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.needs import left_out_if, release

from .clients import LLMS
from .styles import STATES, Fact, drain, template

pytestmark = pytest.mark.matrix

ASK_OTHERS = {
    # Each calls a method above it, on the model itself.
    *(f"{prefix}{name}" for name in ("predict", "predict_and_call") for prefix in ("", "a")),
    *(f"{prefix}{name}" for name in ("stream", "chat_with_tools") for prefix in ("", "a")),
    *(f"{prefix}stream_chat_with_tools" for prefix in ("", "a")),
    # It only puts messages together.
    "_prepare_chat_with_tools",
}
SILENT_ABOUT_ITSELF = "structured_predict"


def models() -> Iterator[type[LLM]]:
    """The language models of all installed integrations, and of LlamaIndex itself."""
    for found in pkgutil.iter_modules(llama_index.llms.__path__, "llama_index.llms."):
        for value in vars(import_module(found.name)).values():
            if isinstance(value, type) and issubclass(value, LLM):
                yield value


def test_every_method_with_a_span_calls_a_provider_or_another_method() -> None:
    """No integration has a method that may ask a provider and isn't known to."""
    unknown = {
        f"{model.__name__}.{name}"
        for model in models()
        for name in dir(model)
        if hasattr(getattr(model, name, None), DISPATCHER_SPAN_DECORATED_ATTR)
        and not SPANS.is_call(f"{model.__name__}.{name}-1")
        and name not in ASK_OTHERS
    }
    assert unknown == set()


def test_every_structured_method_is_a_call() -> None:
    """The four siblings of `structured_predict`, and what an integration adds to them."""
    named = {name for model in models() for name in dir(model) if SILENT_ABOUT_ITSELF in name}
    public = {name for name in named if not name.startswith("_")}
    assert {f"{a}{s}structured_predict" for a in ("", "a") for s in ("", "stream_")} <= public
    assert all(SPANS.is_call(f"Model.{name}-1") for name in public)


ASKED: dict[str, Callable[[Any], object]] = {
    "stream": lambda llm: list(llm.stream_structured_predict(Fact, template(), country="Chad")),
    "astream": lambda llm: asyncio.run(
        drain(llm.astream_structured_predict(Fact, template(), country="Chad"))
    ),
    "dropped": lambda llm: llm.stream_structured_predict(Fact, template(), country="Chad") and None,
}


@left_out_if(
    release("llama-index-llms-anthropic") < (0, 12),
    "llms-anthropic before 0.12 asks for structured output through tools",
)
@pytest.mark.parametrize("style", ASKED)
def test_claude_answers_in_a_structure_of_its_own(style: str) -> None:
    """llms-anthropic asks for the answer before it gives out the stream: that is one call."""
    (integration,) = [one for one in LLMS if one.name == "anthropic"]
    handler = TokenCountingHandler()
    with LoopbackProvider() as provider:
        provider.script(Reply('{"country": "Chad", "capital": "N\'Djamena"}'))
        llm = integration.llm(provider, CallbackManager([handler]), model="claude-sonnet-4-5")
        ASKED[style](llm)
        gc.collect()
        assert len(provider.billed) == 1
        (event,) = handler.llm_token_counts
        assert event.prompt_token_count > 0
        assert event.completion_source == "estimated"


def test_a_structured_stream_that_is_held_is_counted_at_its_end() -> None:
    """Nobody tells of the stream around the one that was read: there is nothing to wait for."""
    (integration,) = [one for one in LLMS if one.name == "openai-default"]
    handler = TokenCountingHandler()
    with LoopbackProvider() as provider:
        provider.script(STATES)
        llm = integration.llm(provider, CallbackManager([handler]))
        stream = llm.stream_structured_predict(Fact, template(), country="Chad")
        assert list(stream)
        (event,) = handler.llm_token_counts
        assert event.prompt_token_count > 0
        del stream
        assert len(handler.llm_token_counts) == 1
