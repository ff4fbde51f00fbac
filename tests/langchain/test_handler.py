"""What a LangChain handler counts, says and refuses, with LangChain's own scripted models."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
from typing import Any, cast
from uuid import uuid4

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import CallbackManager, CallbackManagerForLLMRun
from langchain_core.language_models import (
    BaseChatModel,
    BaseLLM,
    FakeListLLM,
    GenericFakeChatModel,
)
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate

from llama_token_tracker import TokenCountingHandler, Tracker, Usage
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from tests.scripted import answer, by_hand, reported

INSTANT = "anthropic.claude-instant-v1"
JOKE = "Here's one: Why can't AI assistants tell jokes? Because they lack a sense of humor!"
SAID = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}


class Completing(FakeListLLM):
    """A model for texts with a name."""

    responses: list[str] = [JOKE]  # noqa: RUF012 - a field
    model_id: str = INSTANT

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {"ls_provider": "amazon_bedrock", "ls_model_name": self.model_id}


class Chatting(BaseChatModel):
    """A chat model that answers with what it's made with."""

    answer: AIMessage
    llm_output: dict[str, Any] | None = None

    @property
    def _llm_type(self) -> str:
        return "chatting"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generation = ChatGeneration(message=self.answer)
        return ChatResult(generations=[generation], llm_output=self.llm_output)


def ask(
    model: Any, token_counter: TokenCountingCallbackHandler, prompt: Any = "hello world"
) -> Any:
    """Ask, with the handler."""
    return model.invoke(prompt, {"callbacks": [token_counter]})


def chatting(usage: Any = None, text: str = "hi", **kwargs: Any) -> Chatting:
    """A chat model that reports this."""
    answer = AIMessage(content=text, usage_metadata=usage, **kwargs)
    return Chatting(answer=answer)


# --- the figures ---------------------------------------------------------------------------


def test_a_silent_chain_is_counted_with_claudes_own_tokenizer(
    token_counter: TokenCountingCallbackHandler,
) -> None:
    """What LangChain hands over is counted: the messages as it writes them, and the answer."""
    chain = ChatPromptTemplate.from_template("tell me a joke about {subject}") | Completing()
    ask(chain, token_counter, {"subject": "ai"})
    assert (token_counter.input_tokens, token_counter.output_tokens) == (8, 20)
    assert token_counter.total_tokens == 28
    [event] = token_counter.llm_token_counts
    assert event.prompt == "Human: tell me a joke about ai"
    assert (event.source, event.operation) == ("counted", "completion")
    assert (event.provider, event.model) == ("aws.bedrock", INSTANT)


def test_a_plain_template_is_counted_as_it_is(token_counter: TokenCountingCallbackHandler) -> None:
    """It puts no role before the text."""
    chain = PromptTemplate.from_template("tell me a joke about {subject}") | Completing()
    ask(chain, token_counter, {"subject": "ai"})
    assert (token_counter.input_tokens, token_counter.output_tokens) == (6, 20)


def test_what_the_provider_says_wins(token_counter: TokenCountingCallbackHandler) -> None:
    """LangChain's own usage is inclusive, cache and reasoning told apart."""
    usage = {
        **SAID,
        "input_token_details": {"cache_read": 60, "cache_creation": 30, "audio": 1},
        "output_token_details": {"reasoning": 15},
    }
    ask(chatting(usage), token_counter)
    [event] = token_counter.llm_token_counts
    assert event.source == "reported"
    assert event.usage == Usage(
        input_tokens=100,
        output_tokens=20,
        cache_read_tokens=60,
        cache_write_tokens=30,
        input_audio_tokens=1,
        reasoning_tokens=15,
    )


def test_of_places_that_disagree_the_one_that_knows_more_wins(
    token_counter: TokenCountingCallbackHandler,
) -> None:
    """A raw usage with its cache says more than a copy without."""
    raw = {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 20}
    ask(chatting(SAID | {"input_tokens": 10}, response_metadata={"usage": raw}), token_counter)
    assert token_counter.usage == Usage(input_tokens=100, output_tokens=20, cache_read_tokens=90)


@pytest.mark.parametrize("place", ["usage", "token_usage"])
def test_an_output_that_only_llm_output_tells(
    place: str, token_counter: TokenCountingCallbackHandler
) -> None:
    """Older integrations put it there alone."""
    output = {place: {"prompt_tokens": 31, "completion_tokens": 7, "total_tokens": 38}}
    ask(Chatting(answer=AIMessage(content="hi"), llm_output=output), token_counter)
    assert token_counter.usage == Usage(input_tokens=31, output_tokens=7)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, ("estimated", "estimated")),
        ({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, ("estimated", "estimated")),
        ({"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}, ("reported", "estimated")),
        ({"input_tokens": 0, "output_tokens": 9, "total_tokens": 9}, ("estimated", "reported")),
        (SAID, ("reported", "reported")),
    ],
)
def test_a_zero_where_something_was_said_is_silence(
    usage: Any, expected: tuple[str, str], token_counter: TokenCountingCallbackHandler
) -> None:
    """Integrations that know nothing write zeros."""
    ask(chatting(usage), token_counter)
    [event] = token_counter.llm_token_counts
    assert (event.prompt_source, event.completion_source) == expected
    assert event.prompt_token_count > 0
    assert event.completion_token_count > 0


def test_an_empty_answer_may_cost_nothing(token_counter: TokenCountingCallbackHandler) -> None:
    """Zero out for nothing said is a figure."""
    ask(
        chatting({"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}, text=""), token_counter
    )
    [event] = token_counter.llm_token_counts
    assert (event.source, event.total_token_count) == ("reported", 9)


def test_a_tokenizer_of_ones_own() -> None:
    """It counts what the provider didn't."""
    own = TokenCountingCallbackHandler(str.split)
    ask(Completing(), own, "one two three")
    assert (own.input_tokens, own.output_tokens) == (3, len(JOKE.split()))


def test_calls_of_tools_are_counted_once(token_counter: TokenCountingCallbackHandler) -> None:
    """They stand in the content and beside it."""
    call = {"name": "add", "args": {"a": 20}, "id": "1"}
    block = {"type": "tool_use", "name": "add", "input": {"a": 20}, "id": "1"}
    ask(chatting(tool_calls=[call], text=""), token_counter)
    ask(Chatting(answer=AIMessage(content=[block], tool_calls=[call])), token_counter)
    first, second = token_counter.llm_token_counts
    assert first.completion_token_count == second.completion_token_count > 1


def test_all_kinds_of_messages_are_counted(token_counter: TokenCountingCallbackHandler) -> None:
    """System, human, assistant and tool; texts, thoughts and pictures."""
    talk = [
        SystemMessage("be brief"),
        HumanMessage(
            [
                {"type": "text", "text": "hello"},
                {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
            ]
        ),
        AIMessage([{"type": "reasoning", "reasoning": "well"}, "hm"]),
        ToolMessage("42", tool_call_id="1"),
    ]
    ask(chatting(), token_counter, talk[:1])
    ask(chatting(), token_counter, talk)
    short, long = token_counter.llm_token_counts
    assert long.prompt_token_count > short.prompt_token_count + 50
    assert "System: be brief" in long.prompt


# --- once ----------------------------------------------------------------------------------


def test_what_langchains_cache_serves_is_no_call(
    token_counter: TokenCountingCallbackHandler,
) -> None:
    """It costs nothing, though the answer still says what it cost once."""
    model = Chatting(
        answer=AIMessage(content="hi", usage_metadata=cast("Any", SAID)), cache=InMemoryCache()
    )
    for _ in range(3):
        ask(model, token_counter)
    assert token_counter.total_tokens == 120
    assert len(token_counter.llm_token_counts) == 1
    served = TokenCountingCallbackHandler()
    cached = Completing(cache=InMemoryCache())
    ask(cached, served)
    ask(cached, served)
    assert len(served.llm_token_counts) == 1


def test_one_usage_for_several_prompts_is_counted_once(
    token_counter: TokenCountingCallbackHandler,
) -> None:
    """OpenAI's completions send prompts together, and the first carries the bill of all."""

    class Together(BaseLLM):
        """A model that asks once for all prompts."""

        @property
        def _llm_type(self) -> str:
            return "together"

        def _generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
            usage = {"prompt_tokens": 300, "completion_tokens": 60, "total_tokens": 360}
            answers = [[Generation(text="hi")] for _ in prompts]
            return LLMResult(generations=answers, llm_output={"token_usage": usage})

    Together().batch(["a", "b", "c"], {"callbacks": [token_counter]})
    assert len(token_counter.llm_token_counts) == 1
    assert token_counter.total_tokens == 360


def test_a_model_within_a_model_is_one_call(token_counter: TokenCountingCallbackHandler) -> None:
    """The inner one spoke to the provider."""

    class Routing(Chatting):
        """A model that asks another."""

        def _generate(
            self,
            messages: list[BaseMessage],
            stop: list[str] | None = None,
            run_manager: CallbackManagerForLLMRun | None = None,
            **kwargs: Any,
        ) -> ChatResult:
            assert run_manager is not None
            inner = chatting(SAID)
            within = CallbackManager(run_manager.handlers, parent_run_id=run_manager.run_id)
            answer = inner.invoke(messages, {"callbacks": within})
            return ChatResult(generations=[ChatGeneration(message=answer)])

    ask(Routing(answer=AIMessage(content="")), token_counter)
    assert [event.total_token_count for event in token_counter.llm_token_counts] == [120]


def test_within_with_every_call_is_heard(token_counter: TokenCountingCallbackHandler) -> None:
    """Nested blocks hear alike; outside nothing is heard."""
    model, inner = chatting(SAID), TokenCountingCallbackHandler()
    model.invoke("before")
    with token_counter as entered:
        assert entered is token_counter
        model.invoke("one")
        with inner, inner:
            model.invoke("two")
        asyncio.run(model.ainvoke("three"))
        model.batch(["four", "five"])
    model.invoke("after")
    assert len(token_counter.llm_token_counts) == 5
    assert len(inner.llm_token_counts) == 1


def test_with_is_left_by_an_error_too(token_counter: TokenCountingCallbackHandler) -> None:
    """What is raised goes on its way."""
    with pytest.raises(KeyError), token_counter:
        raise KeyError
    chatting(SAID).invoke("after")
    assert token_counter.llm_token_counts == []


def test_tasks_enter_by_themselves() -> None:
    """Of two tasks that take turns, each hears its own."""

    async def ask_within(counter: TokenCountingCallbackHandler) -> None:
        with counter:
            await asyncio.sleep(0)
            await chatting(SAID).ainvoke("hi")
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(*map(ask_within, counters))

    counters = [TokenCountingCallbackHandler() for _ in range(2)]
    asyncio.run(both())
    assert [counter.total_tokens for counter in counters] == [120, 120]


def test_hooks_are_shared() -> None:
    """LangChain forgets no hook, so handlers must not add one each."""
    from langchain_core.tracers.context import _configure_hooks

    for _ in range(2):
        with TokenCountingCallbackHandler():
            before = len(_configure_hooks)
    for _ in range(20):
        with TokenCountingCallbackHandler():
            pass
    assert len(_configure_hooks) == before


def test_a_stream_is_told_at_its_end(token_counter: TokenCountingCallbackHandler) -> None:
    """Its pieces are one answer, in both kinds of loops."""

    async def drain() -> None:
        model = GenericFakeChatModel(messages=iter([AIMessage("hello big world")]))
        async for _ in model.astream("hi", {"callbacks": [token_counter]}):
            pass

    model = GenericFakeChatModel(messages=iter([AIMessage("hello big world")]))
    list(model.stream("hi", {"callbacks": [token_counter]}))
    asyncio.run(drain())
    assert [e.completion for e in token_counter.llm_token_counts] == ["hello big world"] * 2
    assert len({e.completion_token_count for e in token_counter.llm_token_counts}) == 1


# --- with LlamaIndex -----------------------------------------------------------------------


def test_one_tracker_counts_for_both_frameworks() -> None:
    """Totals, scopes, tables and reset are the same, whichever handler is asked."""
    llama = TokenCountingHandler()
    lang = TokenCountingCallbackHandler(tracker=llama.tracker)
    with llama.scope("request", user="ada") as request:
        by_hand(llama, answer("hi", reported(30, 4)), [])
        ask(chatting(SAID), lang)
    ask(chatting(SAID), lang)
    assert llama.total_llm_token_count == lang.total_tokens == 274
    assert request.total_llm_token_count == 154
    assert len(lang.llm_token_counts) == len(llama.llm_token_counts) == 3
    assert lang.by("user") == llama.by("user")
    lang.reset_counts()
    assert llama.total_llm_token_count == 0


# --- tags ----------------------------------------------------------------------------------


def test_metadata_become_tags(token_counter: TokenCountingCallbackHandler) -> None:
    """Texts and numbers do; what frameworks add for themselves doesn't; a scope's tags win."""
    metadata = {"user": "ada", "turn": 3, "blob": {"a": 1}, "langgraph_step": 1, "ls_x": "y"}
    with token_counter.scope("s", turn=4):
        chatting(SAID).invoke("hi", {"callbacks": [token_counter], "metadata": metadata})
    assert token_counter.llm_token_counts[0].tags == {"user": "ada", "turn": "4"}


def test_tags_are_bounded(token_counter: TokenCountingCallbackHandler) -> None:
    """Sixteen are enough for anybody's tables."""
    metadata = {f"key{number}": "x" * 10_000 for number in range(100)}
    chatting(SAID).invoke("hi", {"callbacks": [token_counter], "metadata": metadata})
    tags = token_counter.llm_token_counts[0].tags
    assert len(tags) == 16
    assert max(map(len, tags.values())) == 256


# --- odd input -----------------------------------------------------------------------------


def test_a_tracker_that_is_none_is_refused() -> None:
    """The error says what to give instead."""
    with pytest.raises(TypeError, match=r"token_counter\.tracker"):
        TokenCountingCallbackHandler(tracker=cast("Any", TokenCountingHandler()))


def test_a_tracker_comes_with_its_own_settings() -> None:
    """What would be ignored is refused."""
    with pytest.raises(ValueError, match="max_events and prices came with a tracker"):
        TokenCountingCallbackHandler(tracker=Tracker(), max_events=3, prices={})


class Raising:
    """Raises whatever it's asked."""

    def __getattribute__(self, name: str) -> Any:
        msg = "never"
        raise RuntimeError(msg)


@pytest.mark.parametrize("make", [lambda: None, int, str, dict, list, Raising])
def test_nothing_odd_is_raised_into_the_call(
    make: Any, token_counter: TokenCountingCallbackHandler
) -> None:
    """Whatever an integration hands over; `raise_error` changes nothing."""
    token_counter.raise_error = True
    thing = make()
    run_id = uuid4()
    token_counter.on_llm_start(
        thing, ["hi"], run_id=run_id, metadata=thing, invocation_params=thing, batch_size=thing
    )
    token_counter.on_llm_end(thing, run_id=run_id)
    chat_id = uuid4()
    token_counter.on_chat_model_start(thing, [[thing]], run_id=chat_id)
    token_counter.on_llm_new_token("x", chunk=thing, run_id=chat_id)
    token_counter.on_llm_error(ValueError(), run_id=chat_id, response=thing)
    token_counter.on_llm_error(ValueError(), run_id=uuid4())
    assert token_counter.total_tokens >= 0


def test_texts_can_be_left_out() -> None:
    """Totals don't need them."""
    counter = TokenCountingCallbackHandler(keep_text=False)
    ask(Completing(), counter)
    [event] = counter.llm_token_counts
    assert (event.prompt, event.completion) == ("", "")
    assert event.completion_token_count == 20


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_counts_by_itself(again: Any, token_counter: TokenCountingCallbackHandler) -> None:
    """It starts from what the original had."""
    ask(chatting(SAID), token_counter)
    twin = again(token_counter)
    ask(chatting(SAID), twin)
    assert (token_counter.total_tokens, twin.total_tokens) == (120, 240)


@pytest.mark.slow
def test_the_package_loads_no_langchain() -> None:
    """Nor does LlamaIndex's handler."""
    code = (
        "import sys, llama_token_tracker; llama_token_tracker.TokenCountingHandler;"
        "sys.exit('langchain_core' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
