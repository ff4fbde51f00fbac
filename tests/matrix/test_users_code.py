"""What users hand to a structured call is run by LlamaIndex alone: functions and classes."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate, RichPromptTemplate
from pydantic import BaseModel, computed_field, field_serializer

import llama_token_tracker

from .cells import replies_for
from .clients import LLMS, Integration, each
from .styles import STRUCTURED, Run, Style, drain

if TYPE_CHECKING:
    from llama_index.core.callbacks import CallbackManager

    from llama_token_tracker import TokenCountingHandler
    from llama_token_tracker.testing import LoopbackProvider

pytestmark = pytest.mark.matrix

PREDICTING = [style for style in STRUCTURED if style.name.endswith("structured_predict")]
CALLS_ITS_SDK = ("gemini", "openai-responses")
"""Integrations whose own methods ask the provider, so that what was sent is seen by nobody."""
OURS = llama_token_tracker.__path__[0]
ran_by_us: list[bool] = []


def note() -> str:
    """Note who runs the user's code."""
    ran_by_us.append(any(OURS in frame.filename for frame in traceback.extract_stack()))
    if ran_by_us[-1]:
        message = "a side effect that happens twice"
        raise RuntimeError(message)
    return "Australia"


class Value:
    """What is put into a template, and prints itself."""

    def __format__(self, spec: str) -> str:
        return note()

    def __str__(self) -> str:
        return note()


class Fact(BaseModel):
    """An answer with code of its own."""

    country: str
    capital: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def message(self) -> str:
        """A property that the answer's reader might take for a message."""
        return note()

    @field_serializer("capital")
    def _upper(self, value: str) -> str:
        return value + note()

    def __str__(self) -> str:
        return note()


MAPPED = {"country": lambda **_: note()}
TEMPLATES: dict[str, tuple[Any, dict[str, Any]]] = {
    "function": (PromptTemplate("A fact about {country}.", function_mappings=MAPPED), {}),
    "chat": (
        ChatPromptTemplate.from_messages(
            [("user", "A fact about {country}.")], function_mappings=MAPPED
        ),
        {},
    ),
    "value": (PromptTemplate("A fact about {country}."), {"country": Value()}),
    "rich": (RichPromptTemplate("A fact about {{ country }}."), {"country": Value()}),
}


@each(one for one in LLMS if not one.broken)
@pytest.mark.parametrize("style", PREDICTING, ids=lambda style: style.name)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_users_code_is_run_by_llama_index_alone(
    integration: Integration,
    style: Style,
    template: tuple[Any, dict[str, Any]],
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """And the call that was paid for is counted."""
    ran_by_us.clear()
    prompt, values = template
    llm = integration.llm(provider, manager)
    provider.script(*replies_for(integration, style))
    predict = getattr(llm, style.name)
    answer = predict(Fact, prompt, **values)
    if style.is_async:
        run(drain(answer) if style.streamed else answer)
    elif style.streamed:
        list(answer)
    # A stream that nobody tells of is over when it's let go of.
    del answer
    assert ran_by_us
    events = handler.llm_token_counts
    assert str(handler)
    assert not any(ran_by_us)
    assert len(events) == len(provider.billed)
    if integration.name in CALLS_ITS_SDK and not style.streamed:
        assert all(event.prompt_source == "estimated" for event in events)
        assert all("A fact about" in event.prompt for event in events)
        assert all("Canberra" in event.completion for event in events)
