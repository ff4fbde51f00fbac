"""Every call of LlamaIndex, whatever callback manager its model has, from the dispatcher alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from llama_index.core import Document, MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.evaluation import FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import FunctionCallingProgram

from llama_token_tracker import Budget, TokenCountingHandler, watch
from llama_token_tracker.testing import Reply
from llama_token_tracker.wire import WatchingTransport
from tests.needs import left_out_if, needs, release
from tests.scripted import deaf

from .cells import (
    CELL,
    INVISIBLE,
    STYLES,
    cells,
    check_totals,
    exercise,
    expect,
    matches,
    replies_for,
    visible,
)
from .clients import EMBEDDINGS, LLMS, Integration, each
from .styles import MESSAGES, PROMPT, STATES, Fact, Run, Style, drain, template
from .test_process import TEXTS, is_told

if TYPE_CHECKING:
    from llama_token_tracker.testing import LoopbackProvider

pytestmark = pytest.mark.matrix

BY_NAME = {integration.name: integration for integration in LLMS}
OTHER_WAYS = {
    *("achat_with_tools", "stream_chat_with_tools", "predict_and_call", "structured.complete"),
    *("structured.achat", "apredict", "stream", "query", "chat_engine", "chat_engine_astream"),
}
"""Styles of which a sister goes the same way; all are tried where callbacks tell of them."""
SOME = [style for style in STYLES if style.name in {"astream_chat", "structured_predict"}]
Asks = Callable[[Any, Run], object]
FIVE = [BY_NAME[name] for name in ("openai", "anthropic", "bedrock-converse", "ollama", "gemini")]


@pytest.fixture
def nobody() -> Iterator[CallbackManager]:
    """A callback manager without a handler, in Settings too."""
    manager = Settings.callback_manager = deaf()
    yield manager
    manager.handlers = []


@pytest.fixture
def handler() -> Iterator[TokenCountingHandler]:
    """A handler that counts everywhere, and is in no manager yet."""
    handler = TokenCountingHandler(everywhere=True)
    yield handler
    handler.close()
    assert handler.open_calls == 0


@pytest.fixture
def limited() -> Iterator[TokenCountingHandler]:
    """The same with a budget, which no call fits into once 30,000 tokens are spent."""
    handler = TokenCountingHandler(everywhere=True, budget=Budget(tokens=30_000))
    yield handler
    handler.close()
    assert handler.open_calls == 0
    assert handler.accounts[0].spent().reserved_tokens == 0


@pytest.mark.parametrize(CELL, cells(one for one in STYLES if one.name not in OTHER_WAYS))
def test_a_call_is_one_event_with_its_bill(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    nobody: CallbackManager,
    run: Run,
) -> None:
    """Without a handler in any manager."""
    llm = integration.llm(provider, nobody)
    provider.script(*replies_for(integration, style))
    exercise(integration, style, llm, provider, run)
    gc.collect(1)
    expect(handler, provider, reported=visible(integration, style))


# --- together with who else tells ------------------------------------------------------------


@pytest.mark.parametrize(CELL, cells(SOME))
@pytest.mark.parametrize("also", ["callbacks", "watch", "both"])
def test_a_call_that_others_tell_of_as_well_is_one_event(
    also: str,
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    nobody: CallbackManager,
    run: Run,
) -> None:
    """Callbacks, with the handler in Settings too, a watched process, and both of them."""
    if also != "watch":
        nobody.add_handler(handler)
    with ExitStack() as stack:
        if also != "callbacks":
            stack.enter_context(watch(handler))
        llm = integration.llm(provider, nobody)
        provider.script(*replies_for(integration, style))
        exercise(integration, style, llm, provider, run)
        gc.collect(1)
    seen = visible if also == "callbacks" else is_told
    expect(handler, provider, reported=seen(integration, style))


def test_a_watching_transport_tells_of_the_same_call(
    provider: LoopbackProvider, handler: TokenCountingHandler, nobody: CallbackManager
) -> None:
    """Its figures are the event's, in a stream whose usage nobody asked for, too."""
    client = httpx.Client(transport=WatchingTransport(handler))
    llm = BY_NAME["openai"].llm(provider, nobody, http_client=client)
    llm.chat(MESSAGES)
    list(llm.stream_complete(PROMPT))
    expect(handler, provider, reported=True)


@each(EMBEDDINGS)
@pytest.mark.parametrize("is_watched", [False, True], ids=["alone", "watched"])
@pytest.mark.parametrize("is_heard", [False, True], ids=["none", "told"])
def test_embeddings_are_counted_once(
    integration: Integration,
    is_watched: bool,
    is_heard: bool,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    run: Run,
) -> None:
    """An estimate for each text, or the figure of each request that a watch has seen."""
    model = integration.embedding(provider, CallbackManager([handler]) if is_heard else deaf())
    model.embed_batch_size = 2
    # Bedrock's makes asynchronous clients of its own, for AWS alone.
    is_async = integration.name == "openai-embedding"
    with ExitStack() as stack:
        if is_watched:
            stack.enter_context(watch(handler))
        model.get_text_embedding(TEXTS[0])
        model.get_query_embedding(TEXTS[1])
        model.get_text_embedding_batch(TEXTS)
        if is_async:
            run(model.aget_text_embedding(TEXTS[0]))
            run(model.aget_query_embedding(TEXTS[1]))
            run(model.aget_text_embedding_batch(TEXTS))
    events = handler.embedding_token_counts
    if is_watched:
        assert {event.source for event in events} == {"reported"}
        assert handler.total_embedding_token_count == sum(b.input_tokens for b in provider.billed)
    else:
        once = [TEXTS[0], TEXTS[1], *TEXTS]
        assert sorted(event.prompt for event in events) == sorted(once * (1 + is_async))
        assert handler.total_embedding_token_count < sum(b.input_tokens for b in provider.billed)


# --- engines, evaluators, programs -----------------------------------------------------------


def _engine(kind: Any, **more: Any) -> Asks:
    def ask(llm: Any, run: Run) -> object:
        engine = kind.from_defaults(llm=llm, **more, memory=ChatMemoryBuffer.from_defaults())
        engine.chat(PROMPT)
        return "".join(engine.stream_chat(PROMPT).response_gen)

    return ask


def _retrieving(kind: Any) -> Asks:
    def ask(llm: Any, run: Run) -> object:
        index = VectorStoreIndex.from_documents(
            [Document(text="Canberra.")], embed_model=MockEmbedding(embed_dim=2)
        )
        return _engine(kind, retriever=index.as_retriever())(llm, run)

    return ask


def _evaluator(kind: Any) -> Asks:
    def ask(llm: Any, run: Run) -> object:
        given: Any = {"query": PROMPT, "response": "Canberra.", "contexts": ["Canberra."]}
        return run(kind(llm=llm).aevaluate(**given))

    return ask


def _program(llm: Any, _: Run) -> object:
    program = FunctionCallingProgram.from_defaults(Fact, "A fact about {country}.", llm=llm)
    return program(country="Australia")


ENGINES: dict[str, tuple[Asks, int]] = {
    "simple": (_engine(SimpleChatEngine), 2),
    "context": (_retrieving(ContextChatEngine), 2),
    # The second question is condensed first.
    "condense": (_retrieving(CondensePlusContextChatEngine), 3),
    "faithfulness": (_evaluator(FaithfulnessEvaluator), 1),
    "relevancy": (_evaluator(RelevancyEvaluator), 1),
    "program": (_program, 1),
}
"""What may put another manager on a model, and how often it asks that."""


HOLDERS = {"nobody": FIVE[:1], "model": FIVE, "settings": FIVE[:1]}
"""Who has the handler, and with which integrations that is tried."""


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("holder", "integration"),
    [
        pytest.param(holder, one, id=f"{holder}-{one}", marks=needs(one.module))
        for holder, integrations in HOLDERS.items()
        for one in integrations
    ],
)
def test_engines_and_evaluators_are_counted(
    name: str,
    holder: str,
    integration: Integration,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    nobody: CallbackManager,
    run: Run,
) -> None:
    """Wherever the handler is: nowhere, on the model alone with Settings empty, or in both."""
    if holder == "settings":
        nobody.add_handler(handler)
    llm = integration.llm(provider, deaf() if holder == "nobody" else CallbackManager([handler]))
    ask, number = ENGINES[name]
    provider.script(*[STATES if name == "program" else Reply("YES")] * number)
    ask(llm, run)
    gc.collect(1)
    provider.settle()
    assert len(provider.billed) == number
    assert len(handler.llm_token_counts) == number
    told = [*zip(handler.llm_token_counts, provider.billed, strict=True)]
    # Each engine's last answer is a stream, and an old integration drops what that says.
    if number > 1 and (integration.name, "stream_chat", "normal") in INVISIBLE:
        assert told.pop()[0].prompt_token_count > 0
    for event, bill in told:
        matches(event, bill)
    check_totals(handler)
    assert handler.uncounted == {}


def _structured(method: str) -> Asks:
    def ask(llm: Any, run: Run) -> object:
        made = getattr(llm, method)(Fact, template(), country="Chad")
        if not method.startswith("a"):
            return [*made] if "stream" in method else made
        return run(drain(made) if "stream" in method else made)

    return ask


ASK_CLAUDE: dict[str, Asks] = {
    f"{a}{stream}structured_predict": _structured(f"{a}{stream}structured_predict")
    for a in ("", "a")
    for stream in ("", "stream_")
}
ASK_CLAUDE["structured"] = lambda llm, _: llm.as_structured_llm(Fact).chat(MESSAGES)


@left_out_if(
    release("llama-index-llms-anthropic") < (0, 12),
    "llms-anthropic before 0.12 asks for structured output through tools",
)
@pytest.mark.parametrize("ask", ASK_CLAUDE.values(), ids=ASK_CLAUDE)
def test_claude_answers_in_a_structure_of_its_own(
    ask: Asks,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    nobody: CallbackManager,
    run: Run,
) -> None:
    """Such a call has a span and makes no event of LlamaIndex's."""
    provider.script(Reply('{"country": "Chad", "capital": "N\'Djamena"}'))
    ask(BY_NAME["anthropic"].llm(provider, nobody, model="claude-sonnet-4-5"), run)
    gc.collect()
    assert len(provider.billed) == 1
    (event,) = handler.llm_token_counts
    assert event.prompt_token_count > 0


# --- budgets ---------------------------------------------------------------------------------


@each(FIVE)
@pytest.mark.parametrize("style", ["chat", "stream_chat", "achat"])
def test_a_budget_stops_a_watched_call(
    style: str,
    integration: Integration,
    provider: LoopbackProvider,
    limited: TokenCountingHandler,
    nobody: CallbackManager,
    run: Run,
) -> None:
    """Nothing is sent, and nothing but what was answered before is charged."""
    llm = integration.llm(provider, nobody)
    ask: dict[str, Callable[[], object]] = {
        "chat": lambda: llm.chat(MESSAGES),
        "stream_chat": lambda: list(llm.stream_chat(MESSAGES)),
        "achat": lambda: run(llm.achat(MESSAGES)),
    }
    with watch(limited):
        ask[style]()
        limited.accounts[0].spend({}, None, 30_000, None)
        with pytest.raises(Exception) as refused:  # noqa: PT011 - some SDKs wrap it
            ask[style]()
    assert "Budget" in repr(_chain(refused.value))
    assert len(provider.calls) == len(provider.billed) == 1
    matches(limited.llm_token_counts[0], provider.billed[0])
    assert len(limited.llm_token_counts) == 1


@left_out_if(
    release("llama-index-llms-anthropic") < (0, 12),
    "llms-anthropic before 0.12 asks for structured output through tools",
)
@pytest.mark.parametrize("is_spent", [False, True], ids=["free", "spent"])
@pytest.mark.parametrize("ask", ASK_CLAUDE.values(), ids=ASK_CLAUDE)
def test_a_budget_stops_a_watched_structured_call(
    ask: Asks,
    is_spent: bool,
    provider: LoopbackProvider,
    limited: TokenCountingHandler,
    nobody: CallbackManager,
    run: Run,
) -> None:
    """One that has a span only is held to it, too."""
    provider.script(Reply('{"country": "Chad", "capital": "N\'Djamena"}'))
    llm = BY_NAME["anthropic"].llm(provider, nobody, model="claude-sonnet-4-5")
    limited.accounts[0].spend({}, None, 30_000 * is_spent, None)
    with watch(limited), pytest.raises(Exception) if is_spent else ExitStack():  # noqa: PT011
        ask(llm, run)
    gc.collect(1)
    assert len(provider.calls) == len(limited.llm_token_counts) == 1 - is_spent


def _chain(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_chain(error.__cause__ or error.__context__)]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_budget_stops_a_watched_embedding(
    is_async: bool,
    provider: LoopbackProvider,
    limited: TokenCountingHandler,
    nobody: CallbackManager,
    run: Run,
) -> None:
    """Of a batch that would pass it nothing is sent."""
    (integration,) = [one for one in EMBEDDINGS if one.name == "openai-embedding"]
    limited.accounts[0].spend({}, None, 30_000, None)
    model = integration.embedding(provider, nobody)

    def ask() -> object:
        if is_async:
            return run(model.aget_text_embedding_batch(TEXTS))
        return model.get_text_embedding_batch(TEXTS)

    with watch(limited), pytest.raises(Exception) as refused:  # noqa: PT011 - the SDK wraps it
        ask()
    assert "Budget" in repr(_chain(refused.value))
    assert provider.calls == []
    assert limited.total_embedding_token_count == 0
