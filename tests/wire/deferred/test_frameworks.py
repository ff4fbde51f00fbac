"""A framework's call whose answer is deferred is recorded once: when that is retrieved."""

from typing import Any

import httpx
import pytest

from llama_token_tracker import Budget
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire import WatchingTransport, watch
from tests.late import Late
from tests.needs import needs
from tests.wire.deferred.background import Background, Elsewhere, background

ASKED = "write of otters"
ONCE = [("complete", 7_003, 2_017, "reported")]
BEGUN = [("unanswered", 0, "estimated")]


@pytest.fixture
def server() -> Any:
    """A server that answers in the background."""
    says = Background()
    says.looks = [{"status": "completed", "told": True}]
    with background(says) as server:
        yield server


def http_of(server: Late) -> httpx.Client:
    """A client that takes it for OpenAI."""
    return httpx.Client(transport=Elsewhere(server))


def figures(tracker: Any) -> list[tuple[str, int, int, str]]:
    """Each event's status, input, output, and source."""
    return [
        (event.status, event.prompt_token_count, event.completion_token_count, event.source)
        for event in tracker.llm_token_counts
    ]


def llama_index_raises(server: Late, handler: Any) -> Any:
    """Ask by LlamaIndex's own model, which can't read what has no usage."""
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai import OpenAIResponses

    llm = OpenAIResponses(
        model="gpt-4o-mini",
        api_key="k",
        http_client=http_of(server),
        additional_kwargs={"background": True},
        callback_manager=CallbackManager([handler]),
    )
    with pytest.raises(AttributeError):
        llm.chat([ChatMessage(role="user", content=ASKED)])
    return llm._client


def llama_index_returns(server: Late, handler: Any) -> Any:
    """Ask by a model of one's own, which hands the answer over as it is."""
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
    from llama_index.core.llms.callbacks import llm_completion_callback

    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="k", http_client=http_of(server))

    class Own(CustomLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata(model_name="gpt-4o-mini")

        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            raw = client.responses.create(model="gpt-4o-mini", input=prompt, background=True)
            return CompletionResponse(text=raw.output_text, raw=raw)

        @llm_completion_callback()
        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            raise NotImplementedError

    Own(callback_manager=CallbackManager([handler])).complete(ASKED)
    return client


def langchain_returns(server: Late, handler: Any) -> Any:
    """Ask by LangChain."""
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(
        model="gpt-4o-mini",
        api_key="k",  # pyright: ignore[reportArgumentType]
        use_responses_api=True,
        http_client=http_of(server),
        model_kwargs={"background": True},
    )
    llm.invoke(ASKED, config={"callbacks": [handler]})
    return llm.root_client


def llama_index_handler(**options: Any) -> Any:
    """LlamaIndex's handler."""
    from llama_token_tracker import TokenCountingHandler

    return TokenCountingHandler(**options)


def langchain_handler(**options: Any) -> Any:
    """LangChain's handler."""
    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    return TokenCountingCallbackHandler(**options)


ASKING = [
    pytest.param(llama_index_handler, llama_index_raises, id="llama_index raises"),
    pytest.param(llama_index_handler, llama_index_returns, id="llama_index"),
    pytest.param(
        langchain_handler, langchain_returns, id="langchain", marks=needs("langchain_openai")
    ),
]


@pytest.mark.parametrize(("make", "ask"), ASKING)
def test_retrieved_by_a_watched_client(make: Any, ask: Any, server: Late) -> None:
    """The call is pending, with its scope, until a watched client retrieves the answer."""
    handler = make()
    with watch(handler):
        with handler.scope("asking", user="ada") as scope:
            client = ask(server, handler)
        assert (figures(handler), handler.pending_calls, scope.pending_calls) == ([], 1, 1)
        name = "resp_0001a1b2c3d4e5f6a7b8c9"
        assert client.responses.retrieve(name).status == "completed"
        client.responses.retrieve(name)
        client.close()
    assert (figures(handler), handler.pending_calls) == (ONCE, 0)
    (event,) = handler.llm_token_counts
    assert (event.scope, event.tags) == ("asking", {"user": "ada"})
    assert handler.total_llm_token_count == 9_020


@pytest.mark.parametrize(("make", "ask"), ASKING)
def test_never_retrieved(make: Any, ask: Any, server: Late) -> None:
    """Never retrieved, it's one event in the end, and marked."""
    handler = make()
    with watch(handler):
        ask(server, handler).close()
    handler.close()
    assert [(status, out, source) for status, _, out, source in figures(handler)] == BEGUN
    (event,) = handler.llm_token_counts
    assert 0 < event.prompt_token_count < 20


@pytest.mark.parametrize("is_retrieved", [True, False])
@pytest.mark.parametrize(("make", "ask"), ASKING)
def test_budgets(make: Any, ask: Any, server: Late, is_retrieved: bool) -> None:
    """What the framework's call has reserved is held until the answer is retrieved."""
    handler = make(budget=Budget(tokens=20_000, default_max_tokens=3_000))
    (account,) = handler.accounts
    with watch(handler):
        client = ask(server, handler)
        assert (account.spent().tokens, account.spent().reserved_tokens > 3_000) == (0, True)
        if is_retrieved:
            client.responses.retrieve("resp_0001a1b2c3d4e5f6a7b8c9")
        client.close()
    handler.close()
    (spent,) = [account.spent() for account in handler.accounts]
    assert spent.reserved_tokens == 0
    assert spent.tokens == 9_020 if is_retrieved else spent.tokens > 3_000


@pytest.mark.parametrize(("make", "ask"), ASKING)
def test_unwatched(make: Any, ask: Any, server: Late) -> None:
    """Unwatched, nobody can know what it will have used: that's marked at once."""
    handler = make()
    ask(server, handler).close()
    (event,) = handler.llm_token_counts
    assert (event.status, event.completion_token_count) == ("unanswered", 0)
    assert event.completion_source == event.source == "estimated"
    assert 0 < event.prompt_token_count < 20
    assert event.cost is not None
    assert not event.cost.is_whole


def test_a_framework_and_the_wire_have_one_tracker(server: Late) -> None:
    """What a plain client begins beside a framework's handler is its tracker's as well."""
    openai = pytest.importorskip("openai")
    tracker = Tracker()
    http = httpx.Client(transport=WatchingTransport(tracker, Elsewhere(server)))
    with openai.OpenAI(api_key="k", http_client=http) as client:
        begun = client.responses.create(model="gpt-4o-mini", input=ASKED, background=True)
        client.responses.retrieve(begun.id)
    assert figures(tracker) == ONCE
