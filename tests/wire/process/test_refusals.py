"""A budget's refusal comes out of every SDK as it is: nothing is sent, nothing is retried."""

import asyncio
import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from llama_token_tracker import Budget, BudgetExceededError, Tracker, watch
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.testing import LoopbackProvider
from llama_token_tracker.wire import WatchingTransport
from tests.needs import needs, release
from tests.wire.process.calls import CALLS, PROMPT, SdkCall

SINCE = {"openai": (2, 31), "anthropic": (0, 100)}
"""The first releases that hand on errors of their own as they are."""

WRAPPING = [name for name, since in SINCE.items() if () < release(name) < since]
"""SDKs here that wrap whatever stops a request."""


class Retrying:
    """A provider, without the argument that tells SDKs never to try again."""

    def __init__(self, provider: LoopbackProvider) -> None:
        self.url = provider.url
        self._provider = provider

    def arguments(self, name: Any) -> dict[str, Any]:
        """What a client is made with."""
        given = self._provider.arguments(name)
        given.pop("max_retries", None)
        return given


def _gemini(place: Any) -> Any:
    genai: Any = import_module("google.genai")
    retries = genai.types.HttpRetryOptions(attempts=5)
    options = {"base_url": place.url("gemini"), "retry_options": retries}
    return genai.Client(api_key="none", http_options=options)


def _mistral(place: Any) -> Any:
    client: Any = import_module("mistralai.client")
    utils: Any = import_module("mistralai.client.utils")
    backoff = utils.BackoffStrategy(500, 5_000, 2.0, 60_000)
    retries = utils.RetryConfig("backoff", backoff, retry_connection_errors=True)
    return client.Mistral(**place.arguments("mistral"), retry_config=retries)


def _langchain(module: str, name: str, **options: Any) -> Callable[[Any], Any]:
    def make(place: Any) -> Any:
        url = place.url(module.removeprefix("langchain_"))
        made = getattr(import_module(module), name)
        return made(base_url=url, api_key="none", max_tokens=9, **options)

    return make


def _llama_index(module: str, name: str, **options: Any) -> Callable[[Any], Any]:
    def make(place: Any) -> Any:
        made = getattr(import_module(f"llama_index.llms.{module}"), name)
        url = {("api_base" if module == "openai" else "base_url"): place.url(module)}
        return made(api_key="none", max_retries=3, **url, **options)

    return make


def _async_boto3(place: Any) -> Any:
    aioboto3: Any = import_module("aioboto3")
    return aioboto3.Session().client("bedrock-runtime", **place.arguments("bedrock"))


async def _converse(manager: Any) -> None:
    async with manager as client:
        await client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": "a"}]}])


def _invoke(model: Any) -> None:
    model.invoke(PROMPT)


def _ainvoke(model: Any) -> None:
    asyncio.run(model.ainvoke(PROMPT))


def _complete(model: Any) -> None:
    model.complete(PROMPT)


def _acomplete(model: Any) -> None:
    asyncio.run(model.acomplete(PROMPT))


_OPENAI = _langchain("langchain_openai", "ChatOpenAI")
_ANTHROPIC = _langchain("langchain_anthropic", "ChatAnthropic", model="claude-3-5-haiku-20241022")
_LLAMA_OPENAI = _llama_index("openai", "OpenAI")
_LLAMA_ANTHROPIC = _llama_index("anthropic", "Anthropic", model="claude-3-5-haiku-20241022")

REFUSED = CALLS | {
    "gemini retries": SdkCall("google.genai", _gemini, CALLS["gemini"].run),
    "gemini retries async": SdkCall("google.genai", _gemini, CALLS["gemini async"].run),
    "mistral retries": SdkCall("mistralai", _mistral, CALLS["mistral chat"].run),
    "mistral retries async": SdkCall("mistralai", _mistral, CALLS["mistral chat async"].run),
    "aioboto3": SdkCall("aioboto3", _async_boto3, lambda made: asyncio.run(_converse(made))),
    "langchain openai": SdkCall("langchain_openai", _OPENAI, _invoke),
    "langchain openai async": SdkCall("langchain_openai", _OPENAI, _ainvoke),
    "langchain anthropic": SdkCall("langchain_anthropic", _ANTHROPIC, _invoke),
    "langchain anthropic async": SdkCall("langchain_anthropic", _ANTHROPIC, _ainvoke),
    "llama_index openai": SdkCall("llama_index.llms.openai", _LLAMA_OPENAI, _complete),
    "llama_index openai async": SdkCall("llama_index.llms.openai", _LLAMA_OPENAI, _acomplete),
    "llama_index anthropic": SdkCall("llama_index.llms.anthropic", _LLAMA_ANTHROPIC, _complete),
    "llama_index anthropic async": SdkCall(
        "llama_index.llms.anthropic", _LLAMA_ANTHROPIC, _acomplete
    ),
}

every_refused = pytest.mark.parametrize(
    "call",
    [
        pytest.param(call, id=name, marks=needs(call.module))
        for name, call in REFUSED.items()
        if not any(sdk in name or sdk in call.module for sdk in WRAPPING)
    ],
)


@pytest.fixture
def refusals() -> list[BudgetExceededError]:
    """Each refusal, as often as it was asked for."""
    return []


@pytest.fixture
def tracker(refusals: list[BudgetExceededError]) -> Iterator[Tracker]:
    """A tracker that hears the whole process and lets nothing through."""

    def refuse(error: BudgetExceededError) -> None:
        refusals.append(error)
        raise error

    tracker = Tracker(budget=Budget(tokens=1, on_exceed=refuse))
    with watch(tracker):
        yield tracker


@every_refused
@pytest.mark.usefixtures("tracker")
def test_a_refusal_comes_out_as_it_is_and_is_not_retried(
    call: SdkCall, provider: LoopbackProvider, refusals: list[BudgetExceededError]
) -> None:
    """With each SDK's own retries."""
    client = call.make(Retrying(provider))
    with pytest.raises(BudgetExceededError) as raised:
        call.run(client)
    assert refusals == [raised.value]
    assert provider.calls == []


@pytest.mark.parametrize("name", SINCE)
def test_a_refusal_passes_an_sdk_from_within_its_transport(
    name: str, provider: LoopbackProvider
) -> None:
    """A watching transport raises it as the process's watch does."""
    module = pytest.importorskip(name)
    if name in WRAPPING:
        return
    call = CALLS["openai chat" if name == "openai" else "anthropic messages"]
    transport = WatchingTransport(Tracker(budget=Budget(tokens=1)))
    http: Any = module.DefaultHttpxClient(transport=transport)
    kind = module.OpenAI if name == "openai" else module.Anthropic
    with (
        kind(**Retrying(provider).arguments(name), http_client=http) as client,
        pytest.raises(BudgetExceededError),
    ):
        call.run(client)
    assert provider.calls == []


def test_a_refusal_is_also_an_error_of_the_sdks_and_pickles_as_the_budgets_own(
    provider: LoopbackProvider,
) -> None:
    """Which is why they hand it on; another process may have none of them."""
    openai = pytest.importorskip("openai")
    with watch(Tracker(budget=Budget(tokens=1))), pytest.raises(BudgetExceededError) as raised:
        CALLS["httpx"].run(CALLS["httpx"].make(provider))
    error = raised.value
    assert isinstance(error, openai.OpenAIError)
    assert repr(error).startswith("BudgetExceededError(")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is BudgetExceededError
        assert (str(other), other.asked) == (str(error), error.asked)


@pytest.mark.usefixtures("tracker")
def test_an_sdk_whose_errors_are_of_another_kind_changes_nothing(
    provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal goes its way, and that it's wrapped there is said."""

    class OpenAIError(SystemExit):
        """Of another layout in memory."""

    forget_notices()
    module: Any = ModuleType("openai")
    module.OpenAIError = OpenAIError
    monkeypatch.setitem(sys.modules, "openai", module)
    with pytest.raises(BudgetExceededError) as raised:
        CALLS["httpx"].run(CALLS["httpx"].make(provider))
    assert not isinstance(raised.value, OpenAIError)
    assert "openai wraps a budget's refusal" in caplog.text
