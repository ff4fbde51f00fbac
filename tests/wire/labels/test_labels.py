"""A figure is `reported`, and a cost whole, only if nothing in the answer contradicts it."""

from contextlib import suppress
from typing import Any

import openai
import pytest

from llama_token_tracker import Budget, BudgetExceededError, Tracker
from tests.canned import Canned, canned
from tests.wire.labels.answers import (
    chunks,
    completion,
    conversed,
    conversed_stream,
    embeddings,
    events,
    message,
    on_aws,
    response,
)
from tests.wire.labels.asking import (
    CLAUDE,
    GPT,
    GPT_ON_AWS,
    MESSAGES,
    ON_AWS,
    PROMPT,
    WITH_AIOBOTO3,
    WITH_BEDROCK,
    WITH_CLAUDE,
    WITH_CLAUDES_USAGE,
    WITH_LANGCHAIN,
    WITH_LANGCHAIN_AWS,
    WITH_LANGCHAIN_CLAUDE,
    WITH_OPENAI,
    Ask,
    asked,
    async_chat,
    async_chat_stream,
    async_converse,
    async_converse_stream,
    chat,
    chat_stream,
    converse,
    converse_stream,
    embed,
    invoke,
    invoke_stream,
    is_exact,
    langchain_claude,
    langchain_claude_stream,
    langchain_converse,
    langchain_converse_stream,
    langchain_openai,
    langchain_openai_stream,
    langchain_responses,
    llama_claude,
    llama_claude_astream,
    llama_claude_stream,
    llama_claude_watched_stream,
    llama_converse,
    llama_converse_stream,
    llama_openai,
    llama_openai_stream,
    llama_responses,
    messages,
    messages_stream,
    post,
    responses,
    watched_langchain_claude_stream,
    watched_langchain_stream,
)

# --- 1: figures that come more than once ---------------------------------------------------


def _sums(prompt: int, completion: int) -> dict[str, int]:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


OPENAIS_STREAMS = [
    chat_stream,
    async_chat_stream,
    pytest.param(llama_openai_stream, marks=WITH_OPENAI),
    pytest.param(langchain_openai_stream, marks=WITH_LANGCHAIN),
]


@pytest.mark.parametrize("ask", OPENAIS_STREAMS)
def test_repeated_figures_are_not_added_up(ask: Ask):
    """Each chunk says how much it has been so far."""
    figures = [_sums(7_013, n) for n in (1, 2, 3, 4, 5, 6, 6)]
    event = asked(ask, chunks(*figures), GPT)
    assert (event.prompt_token_count, event.completion_token_count) == (7_013, 6)
    assert (event.source, event.not_understood) == ("reported", ())


@pytest.mark.parametrize("ask", OPENAIS_STREAMS)
def test_figures_that_become_less_are_not_the_bill(ask: Ask):
    """Neither the last ones nor their sum surely are."""
    event = asked(ask, chunks(_sums(7_013, 5), _sums(12, 1)), GPT)
    assert event.source == "estimated"
    assert event.not_understood
    assert not is_exact(event)


LONG, SHORT = (
    {"inputTokens": sent, "outputTokens": came, "totalTokens": sent + came}
    for sent, came in ((7_013, 5), (12, 1))
)


@pytest.mark.parametrize(
    ("ask", "model", "answer"),
    [
        (
            messages_stream,
            CLAUDE,
            events({"input_tokens": 7_013, "output_tokens": 1}, {"input_tokens": 12}),
        ),
        (
            invoke_stream,
            ON_AWS,
            on_aws(events({"input_tokens": 7_013, "output_tokens": 1}, {"input_tokens": 12})),
        ),
        (converse_stream, ON_AWS, conversed_stream(LONG) + conversed_stream(SHORT)[-1:]),
        pytest.param(
            llama_converse_stream,
            ON_AWS,
            conversed_stream(LONG) + conversed_stream(SHORT)[-1:],
            marks=WITH_BEDROCK,
        ),
    ],
)
def test_so_it_is_with_other_formats(ask: Ask, model: str, answer: Canned):
    """Whose figures come at the beginning and at the end."""
    event = asked(ask, answer, model)
    assert event.prompt_source == "estimated"
    assert not is_exact(event)


def test_a_provisional_figure_may_become_less():
    """What Anthropic's streams begin with says nothing of the output."""
    start = {"input_tokens": 70, "cache_read_input_tokens": 0, "output_tokens": 8}
    event = asked(messages_stream, events(start, {"output_tokens": 5}), CLAUDE)
    assert (event.prompt_token_count, event.completion_token_count) == (70, 5)
    assert (event.source, event.not_understood) == ("reported", ())


# --- 3: billed parts outside the known keys ------------------------------------------------

COMPACTED = {
    "input_tokens": 23_011,
    "cache_read_input_tokens": 0,
    "output_tokens": 1_007,
    "iterations": [
        {"type": "compaction", "input_tokens": 180_013, "output_tokens": 3_511},
        {"type": "message", "input_tokens": 23_011, "output_tokens": 1_007},
    ],
}
COMPACTED_STREAM = events({"input_tokens": 23_011, "output_tokens": 1}, COMPACTED)
ADVISED = {
    "input_tokens": 412,
    "output_tokens": 531,
    "iterations": [
        {"type": "message", "input_tokens": 412, "output_tokens": 89},
        {"type": "advisor_message", "input_tokens": 823, "output_tokens": 1_612},
    ],
}


@pytest.mark.parametrize(
    ("ask", "answer", "model"),
    [
        (messages, message(COMPACTED), CLAUDE),
        (messages_stream, COMPACTED_STREAM, CLAUDE),
        (invoke, message(COMPACTED), ON_AWS),
        (invoke_stream, on_aws(COMPACTED_STREAM), ON_AWS),
        pytest.param(llama_claude, message(COMPACTED), CLAUDE, marks=WITH_CLAUDE),
        pytest.param(llama_claude_stream, COMPACTED_STREAM, CLAUDE, marks=WITH_CLAUDES_USAGE),
        pytest.param(langchain_claude, message(COMPACTED), CLAUDE, marks=WITH_LANGCHAIN_CLAUDE),
        pytest.param(
            watched_langchain_claude_stream, COMPACTED_STREAM, CLAUDE, marks=WITH_LANGCHAIN_CLAUDE
        ),
    ],
)
def test_what_compaction_takes_is_billed(ask: Ask, answer: Canned, model: str):
    """Its figures stand beside the sums."""
    event = asked(ask, answer, model)
    assert event.prompt_token_count == 23_011 + 180_013
    assert event.completion_token_count == 1_007 + 3_511
    assert (event.source, event.not_understood) == ("reported", ())


BLOCKS = {
    "compaction": (
        {"type": "compaction", "content": None},
        {"type": "compaction_delta", "content": "They spoke of capitals."},
    ),
    "advisor_tool_result": (
        {
            "type": "advisor_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": {"type": "advisor_result", "text": "Canberra."},
        },
        None,
    ),
}


@WITH_LANGCHAIN_CLAUDE
@pytest.mark.parametrize("ask", [langchain_claude_stream, watched_langchain_claude_stream])
@pytest.mark.parametrize("kind", BLOCKS)
def test_what_langchain_drops_of_a_stream_lowers_the_label(kind: str, ask: Ask):
    """Its figures lack what made such a block; a watch has seen them all."""
    usage = COMPACTED if kind == "compaction" else ADVISED
    start = {"input_tokens": usage["input_tokens"], "output_tokens": 1}
    event = asked(ask, events(start, usage, block=BLOCKS[kind]), CLAUDE)
    if ask is langchain_claude_stream:
        assert event.source == "estimated"
        assert event.not_understood == (f"content[type={kind}]",)
    elif kind == "compaction":
        assert (event.total_token_count, event.source) == (207_542, "reported")
    assert is_exact(event) is False


UNKNOWN_PLAIN = {"prompt_tokens": 33, "completion_tokens": 71, "total_tokens": 104}
RESEARCH = UNKNOWN_PLAIN | {"citation_tokens": 20_016, "reasoning_tokens": 73_997}
SEARCHED = {
    "input_tokens": 5,
    "output_tokens": 6,
    "total_tokens": 11,
    "input_tokens_details": {"cached_tokens": 0, "tool_tokens": 9},
    "output_tokens_details": {"reasoning_tokens": 0},
}
REMEMBERED = {"inputTokens": 5, "outputTokens": 6, "totalTokens": 11, "memoryTokens": 9}


@pytest.mark.parametrize(
    ("ask", "answer", "model", "unknown"),
    [
        (chat, completion(RESEARCH), GPT, "citation_tokens"),
        (async_chat, completion(RESEARCH), GPT, "reasoning_tokens"),
        (chat_stream, chunks(RESEARCH), GPT, "citation_tokens"),
        (async_chat_stream, chunks(RESEARCH), GPT, "reasoning_tokens"),
        (responses, response(SEARCHED), GPT, "input_tokens_details.tool_tokens"),
        (messages, message(ADVISED), CLAUDE, "iterations[type=advisor_message].input_tokens"),
        (
            converse,
            conversed({"inputTokens": 5, "outputTokens": 6, "totalTokens": 11}),
            ON_AWS,
            "",
        ),
        (
            invoke,
            message({"input_tokens": 5, "output_tokens": 6, "memory_tokens": 7}),
            ON_AWS,
            "memory_tokens",
        ),
        (converse, conversed(REMEMBERED), ON_AWS, "memoryTokens"),
        (converse_stream, conversed_stream(REMEMBERED), ON_AWS, "memoryTokens"),
        pytest.param(
            async_converse, conversed(REMEMBERED), ON_AWS, "memoryTokens", marks=WITH_AIOBOTO3
        ),
        pytest.param(
            async_converse_stream,
            conversed_stream(REMEMBERED),
            ON_AWS,
            "memoryTokens",
            marks=WITH_AIOBOTO3,
        ),
        pytest.param(llama_openai, completion(RESEARCH), GPT, "citation_tokens", marks=WITH_OPENAI),
        pytest.param(
            llama_openai_stream, chunks(RESEARCH), GPT, "citation_tokens", marks=WITH_OPENAI
        ),
        pytest.param(
            llama_responses,
            response(SEARCHED),
            GPT,
            "input_tokens_details.tool_tokens",
            marks=WITH_OPENAI,
        ),
        pytest.param(
            langchain_openai, completion(RESEARCH), GPT, "citation_tokens", marks=WITH_LANGCHAIN
        ),
        pytest.param(
            langchain_claude,
            message(ADVISED),
            CLAUDE,
            "iterations[type=advisor_message].input_tokens",
            marks=WITH_LANGCHAIN_CLAUDE,
        ),
        pytest.param(
            llama_claude,
            message(ADVISED),
            CLAUDE,
            "iterations[type=advisor_message].output_tokens",
            marks=WITH_CLAUDE,
        ),
    ],
)
def test_tokens_that_no_table_knows_lower_the_label(
    ask: Ask, answer: Canned, model: str, unknown: str
):
    """They are named, and neither figure nor cost passes for the bill."""
    event = asked(ask, answer, model)
    assert is_exact(event) == (not unknown)
    assert not unknown or unknown in event.not_understood
    assert event.to_dict()["not_understood"] == list(event.not_understood)


# --- 7: net or gross -----------------------------------------------------------------------

GROSS = {
    "inputTokens": 12_401,
    "outputTokens": 41,
    "cacheReadInputTokens": 8_367,
    "cacheWriteInputTokens": 4_032,
    "totalTokens": 24_841,
}
NET = GROSS | {"inputTokens": 2, "totalTokens": 12_442}


@pytest.mark.parametrize(
    ("ask", "answer", "model", "expected", "source"),
    [
        (converse, conversed(GROSS), GPT_ON_AWS, 12_401, "estimated"),
        (converse_stream, conversed_stream(GROSS), "us." + GPT_ON_AWS, 12_401, "estimated"),
        (converse, conversed(NET), GPT_ON_AWS, 12_401, "reported"),
        (converse, conversed(GROSS), ON_AWS, 24_800, "reported"),
        (converse_stream, conversed_stream(GROSS), ON_AWS, 24_800, "reported"),
        *[
            pytest.param(ask, answer(usage), model, expected, source, marks=mark)
            for asks, mark in (
                ((llama_converse, llama_converse_stream), WITH_BEDROCK),
                ((langchain_converse, langchain_converse_stream), WITH_LANGCHAIN_AWS),
            )
            for ask, answer in zip(asks, (conversed, conversed_stream), strict=True)
            for usage, model, expected, source in (
                (GROSS, "openai.gpt-6-sol", 12_401, "estimated"),
                (NET, "openai.gpt-6-sol", 12_401, "reported"),
                (GROSS, ON_AWS, 24_800, "reported"),
            )
        ],
    ],
)
def test_net_or_gross_is_a_matter_of_the_model(
    ask: Ask, answer: Canned, model: str, expected: int, source: str
):
    """Where the sources disagree, the smaller figure stands, marked."""
    event = asked(ask, answer, model)
    assert (event.prompt_token_count, event.prompt_source) == (expected, source)
    assert (event.completion_token_count, event.completion_source) == (41, "reported")
    assert (event.usage.cache_read_tokens, event.usage.cache_write_tokens) == (8_367, 4_032)


# --- 8: dialects ---------------------------------------------------------------------------

MOONSHOT = {
    "prompt_tokens": 22_013,
    "completion_tokens": 511,
    "total_tokens": 22_524,
    "cached_tokens": 20_000,
}


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (chat, completion(MOONSHOT)),
        (chat_stream, chunks(MOONSHOT, within=True)),
        (async_chat_stream, chunks(MOONSHOT, within=True)),
        pytest.param(llama_openai, completion(MOONSHOT), marks=WITH_OPENAI),
        pytest.param(llama_openai_stream, chunks(MOONSHOT, within=True), marks=WITH_OPENAI),
        pytest.param(langchain_openai, completion(MOONSHOT), marks=WITH_LANGCHAIN),
        pytest.param(watched_langchain_stream, chunks(MOONSHOT, within=True), marks=WITH_LANGCHAIN),
    ],
)
def test_usage_within_a_choice_is_read(ask: Ask, answer: Canned):
    """Moonshot's streams have it there, and cached tokens beside the sums."""
    event = asked(ask, answer, "kimi-k2.5")
    assert (event.prompt_token_count, event.completion_token_count) == (22_013, 511)
    assert (event.source, event.usage.cache_read_tokens) == ("reported", 20_000)


@pytest.mark.parametrize(
    ("ask", "answer", "figures"),
    [
        (embed, embeddings({"total_tokens": 37}), (37, 0)),
        (post("/v1/embeddings", input=PROMPT), embeddings({"total_tokens": 37}), (37, 0)),
        (chat, completion({"prompt_tokens": 40, "total_tokens": 47}), (40, 7)),
        (chat_stream, chunks({"completion_tokens": 7, "total_tokens": 47}), (40, 7)),
        (converse, conversed({"inputTokens": 40, "totalTokens": 47, "outputTokens": 7}), (40, 7)),
        pytest.param(
            llama_openai,
            completion({"prompt_tokens": 40, "total_tokens": 47}),
            (40, 7),
            marks=WITH_OPENAI,
        ),
        pytest.param(
            langchain_openai,
            completion({"prompt_tokens": 40, "total_tokens": 47}),
            (40, 7),
            marks=WITH_LANGCHAIN,
        ),
    ],
)
def test_a_total_gives_what_is_missing(ask: Ask, answer: Canned, figures: tuple[int, int]):
    """Of an embedding it is the input; of two sides it gives the other."""
    event = asked(ask, answer, GPT)
    assert (event.prompt_token_count, event.completion_token_count) == figures
    assert event.source == "reported"


GEMINI = post(
    "/v1beta/models/gemini-2.5-flash:generateContent", contents=[{"parts": [{"text": PROMPT}]}]
)
GEMINIS = {
    "candidates": [{"content": {"parts": [{"text": "It is Canberra."}]}, "finishReason": "STOP"}],
    "usageMetadata": {"totalTokenCount": 470},
}


@WITH_LANGCHAIN
def test_what_langchain_drops_is_not_called_the_bill():
    """Of Moonshot's streams it hands on no figures; without a watch ours stand, marked."""
    event = asked(langchain_openai_stream, chunks(MOONSHOT, within=True), "kimi-k2.5")
    assert event.source != "reported"
    assert event.prompt_token_count > 0
    assert event.completion_token_count > 0


@pytest.mark.parametrize(
    ("ask", "answer", "model"),
    [
        (chat, completion({"total_tokens": 470}), GPT),
        (chat_stream, chunks({"total_tokens": 470}), GPT),
        (converse, conversed({"totalTokens": 470}), ON_AWS),
        (converse_stream, conversed_stream({"totalTokens": 470}), ON_AWS),
        (GEMINI, GEMINIS, "gemini-2.5-flash"),
        pytest.param(llama_openai, completion({"total_tokens": 470}), GPT, marks=WITH_OPENAI),
        pytest.param(llama_converse, conversed({"totalTokens": 470}), ON_AWS, marks=WITH_BEDROCK),
    ],
)
def test_a_total_alone_is_split_by_our_own_count(ask: Ask, answer: Canned, model: str):
    """The sum is the provider's, its parts are marked."""
    event = asked(ask, answer, model)
    assert (event.total_token_count, event.source) == (470, "estimated")
    assert event.prompt_token_count > event.completion_token_count > 0


@pytest.mark.parametrize(
    ("ask", "answer", "model"),
    [
        pytest.param(
            langchain_openai, completion({"total_tokens": 470}), GPT, marks=WITH_LANGCHAIN
        ),
        pytest.param(
            langchain_converse, conversed({"totalTokens": 470}), ON_AWS, marks=WITH_LANGCHAIN_AWS
        ),
    ],
)
def test_zeros_beside_a_total_are_marked(ask: Ask, answer: Canned, model: str):
    """LangChain puts them there where a provider states the sum alone."""
    event = asked(ask, answer, model)
    assert event.source == "estimated"
    assert "total_tokens" in event.not_understood


# --- 12: a contradiction lowers its own side -----------------------------------------------


def _contradicted(output: str, details: str) -> dict[str, Any]:
    return {details: {"reasoning_tokens": 500}, output: 100}


CONTRADICTED = {
    "prompt_tokens": 900,
    "total_tokens": 1_000,
    "prompt_tokens_details": {"cached_tokens": 800},
} | _contradicted("completion_tokens", "completion_tokens_details")


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (chat, completion(CONTRADICTED)),
        (async_chat, completion(CONTRADICTED)),
        (chat_stream, chunks(CONTRADICTED)),
        (
            responses,
            response(
                {
                    "input_tokens": 900,
                    "total_tokens": 1_000,
                    "input_tokens_details": {"cached_tokens": 800},
                }
                | _contradicted("output_tokens", "output_tokens_details")
            ),
        ),
        pytest.param(llama_openai, completion(CONTRADICTED), marks=WITH_OPENAI),
        pytest.param(llama_openai_stream, chunks(CONTRADICTED), marks=WITH_OPENAI),
        pytest.param(langchain_openai, completion(CONTRADICTED), marks=WITH_LANGCHAIN),
        pytest.param(langchain_openai_stream, chunks(CONTRADICTED), marks=WITH_LANGCHAIN),
    ],
)
def test_a_contradiction_lowers_its_own_side(ask: Ask, answer: Canned):
    """Input and its cached tokens stand as they were reported."""
    event = asked(ask, answer, GPT)
    assert (event.prompt_token_count, event.prompt_source) == (900, "reported")
    assert event.usage.cache_read_tokens == 800
    assert event.completion_source == "estimated"
    assert not is_exact(event)


EXCEEDED = {"inputTokens": 900, "outputTokens": 100, "totalTokens": 4_000}


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (converse, conversed(EXCEEDED)),
        (converse_stream, conversed_stream(EXCEEDED)),
        pytest.param(llama_converse, conversed(EXCEEDED), marks=WITH_BEDROCK),
        pytest.param(llama_converse_stream, conversed_stream(EXCEEDED), marks=WITH_BEDROCK),
        pytest.param(langchain_converse, conversed(EXCEEDED), marks=WITH_LANGCHAIN_AWS),
        pytest.param(
            langchain_converse_stream, conversed_stream(EXCEEDED), marks=WITH_LANGCHAIN_AWS
        ),
    ],
)
def test_a_total_that_its_sides_contradict_lowers_both(ask: Ask, answer: Canned):
    """Which of them has it wrong isn't known."""
    event = asked(ask, answer, ON_AWS)
    assert (event.prompt_token_count, event.completion_token_count) == (900, 100)
    assert event.source == "estimated"
    assert not is_exact(event)


# --- 14: zeros and errors ------------------------------------------------------------------

ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
NO_TOKENS = {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}
NOTHING = {"input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize(
    ("ask", "answer", "model"),
    [
        (chat, completion(ZEROS), GPT),
        (async_chat, completion(ZEROS), GPT),
        (chat_stream, chunks(ZEROS), GPT),
        (messages, message(NOTHING), CLAUDE),
        (converse, conversed(NO_TOKENS), ON_AWS),
        (converse_stream, conversed_stream(NO_TOKENS), ON_AWS),
        (embed, embeddings({"prompt_tokens": 0, "total_tokens": 0}), "text-embedding-3-small"),
        (messages_stream, events(NOTHING, NOTHING), CLAUDE),
        (invoke, message(NOTHING), ON_AWS),
        (invoke_stream, on_aws(events(NOTHING, NOTHING)), ON_AWS),
        pytest.param(llama_openai, completion(ZEROS), GPT, marks=WITH_OPENAI),
        pytest.param(llama_openai_stream, chunks(ZEROS), GPT, marks=WITH_OPENAI),
        pytest.param(llama_responses, response(NOTHING), GPT, marks=WITH_OPENAI),
        pytest.param(llama_claude, message(NOTHING), CLAUDE, marks=WITH_CLAUDE),
        pytest.param(llama_claude_stream, events(NOTHING, NOTHING), CLAUDE, marks=WITH_CLAUDE),
        pytest.param(llama_converse, conversed(NO_TOKENS), ON_AWS, marks=WITH_BEDROCK),
        pytest.param(
            llama_converse_stream, conversed_stream(NO_TOKENS), ON_AWS, marks=WITH_BEDROCK
        ),
        pytest.param(langchain_openai, completion(ZEROS), GPT, marks=WITH_LANGCHAIN),
        pytest.param(langchain_openai_stream, chunks(ZEROS), GPT, marks=WITH_LANGCHAIN),
        pytest.param(langchain_responses, response(NOTHING), GPT, marks=WITH_LANGCHAIN),
        pytest.param(langchain_claude, message(NOTHING), CLAUDE, marks=WITH_LANGCHAIN_CLAUDE),
        pytest.param(
            langchain_claude_stream, events(NOTHING, NOTHING), CLAUDE, marks=WITH_LANGCHAIN_CLAUDE
        ),
        pytest.param(langchain_converse, conversed(NO_TOKENS), ON_AWS, marks=WITH_LANGCHAIN_AWS),
        pytest.param(
            langchain_converse_stream, conversed_stream(NO_TOKENS), ON_AWS, marks=WITH_LANGCHAIN_AWS
        ),
    ],
)
def test_zeros_beside_texts_are_silence(ask: Ask, answer: Canned, model: str):
    """They are counted, as if nothing had been said."""
    event = asked(ask, answer, model)
    assert event.prompt_token_count > 0
    assert event.prompt_source != "reported"
    assert event.operation == "embedding" or event.completion_token_count > 0
    assert event.source != "reported"


GUARDED = conversed(NO_TOKENS, "Blocked.", "guardrail_intervened")


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (converse, GUARDED),
        (converse_stream, conversed_stream(NO_TOKENS, "Blocked.", "guardrail_intervened")),
        pytest.param(llama_converse, GUARDED, marks=WITH_BEDROCK),
        pytest.param(langchain_converse, GUARDED, marks=WITH_LANGCHAIN_AWS),
    ],
)
def test_a_guardrail_explains_zeros(ask: Ask, answer: Canned):
    """Then the answer is none of the model's."""
    event = asked(ask, answer, ON_AWS)
    assert (event.total_token_count, event.source) == (0, "reported")


FULL = {"input_tokens": 70, "cache_read_input_tokens": 900, "output_tokens": 1}
EMPTIED = {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 17}


@pytest.mark.parametrize(
    ("ask", "answer", "model"),
    [
        (messages_stream, events(FULL, EMPTIED), CLAUDE),
        (invoke_stream, on_aws(events(FULL, EMPTIED)), ON_AWS),
        # Without one its integration fills in the input, and drops the cache's part of it.
        pytest.param(llama_claude_watched_stream, events(FULL, EMPTIED), CLAUDE, marks=WITH_CLAUDE),
        pytest.param(
            watched_langchain_claude_stream,
            events(FULL, EMPTIED),
            CLAUDE,
            marks=WITH_LANGCHAIN_CLAUDE,
        ),
    ],
)
def test_zeros_take_nothing_back(ask: Ask, answer: Canned, model: str):
    """A stream's last figures may be zeros after a full beginning."""
    event = asked(ask, answer, model)
    assert (event.prompt_token_count, event.completion_token_count) == (970, 17)
    assert (event.source, event.usage.cache_read_tokens) == ("reported", 900)


@WITH_LANGCHAIN_CLAUDE
def test_zeros_that_langchain_alone_hands_on_are_silence():
    """It drops a stream's beginning: the input is our own count."""
    event = asked(langchain_claude_stream, events(FULL, EMPTIED), CLAUDE)
    assert event.prompt_token_count > 0
    assert event.prompt_source != "reported"
    assert (event.completion_token_count, event.completion_source) == (17, "reported")


ERROR = {"error": {"message": "upstream failed", "code": 502}}
UNSEEN = [async_chat, post("/v1/chat/completions", messages=MESSAGES, max_tokens=64)]
ERRORS = [ERROR, {"object": "error", "message": "no", "type": "invalid_request", "code": 400}]


@pytest.mark.parametrize("error", ERRORS, ids=["OpenAI's", "Mistral's"])
@pytest.mark.parametrize(
    ("ask", "model"),
    [
        (post("/v1/chat/completions", messages=MESSAGES), GPT),
        (post("/v1/messages", messages=MESSAGES, max_tokens=5), CLAUDE),
        (post("/v1/embeddings", input=[PROMPT]), "text-embedding-3-small"),
        (async_chat, GPT),
        (responses, GPT),
        (converse, ON_AWS),
        (invoke, ON_AWS),
        pytest.param(async_converse, ON_AWS, marks=WITH_AIOBOTO3),
    ],
)
def test_an_error_in_a_body_is_no_answer(ask: Ask, model: str, error: Any):
    """Whatever its HTTP status: what it cost isn't known."""
    event = asked(ask, error, model)
    assert (event.status, event.not_understood) == ("failed", ("error",))
    assert event.source == "estimated"
    assert event.prompt_token_count > 0
    assert not (event.cost and event.cost.is_whole)


@pytest.mark.parametrize("error", ERRORS, ids=["OpenAI's", "Mistral's"])
@pytest.mark.parametrize("ask", [*UNSEEN, converse, invoke])
def test_a_budget_is_charged_what_was_reserved_for_an_error_in_a_body(ask: Ask, error: Any):
    """For nobody knows what came before it: no budget is passed by calls that it can't see."""
    tracker = Tracker(budget=Budget(tokens=400, default_max_tokens=100))
    sent = 0
    with canned(error) as url, suppress(BudgetExceededError):
        for _ in range(20):
            ask(url, GPT if ask in UNSEEN else ON_AWS, tracker)
            sent += 1
    assert 2 <= sent <= 6  # of which each may be answered by 64 or 100 tokens
    assert tracker.accounts[0].spent().tokens >= 64 * sent


@pytest.mark.parametrize(
    ("ask", "model"),
    [
        pytest.param(llama_openai, GPT, marks=WITH_OPENAI),
        pytest.param(llama_responses, GPT, marks=WITH_OPENAI),
        pytest.param(llama_claude, CLAUDE, marks=WITH_CLAUDE),
        pytest.param(llama_converse, ON_AWS, marks=WITH_BEDROCK),
        pytest.param(langchain_openai, GPT, marks=WITH_LANGCHAIN),
        pytest.param(langchain_responses, GPT, marks=WITH_LANGCHAIN),
        pytest.param(langchain_claude, CLAUDE, marks=WITH_LANGCHAIN_CLAUDE),
        pytest.param(langchain_converse, ON_AWS, marks=WITH_LANGCHAIN_AWS),
    ],
)
def test_an_error_in_a_body_that_a_framework_raises_at_is_not_free(ask: Ask, model: str):
    """It doesn't hand on what it was."""
    raises = pytest.raises((TypeError, ValueError, KeyError))
    event = asked(ask, ERROR, model, raises)
    assert event.status == "unanswered"
    assert event.prompt_token_count > 0
    assert event.source != "reported"
    assert not is_exact(event)


FAILING, FAILING_ALIKE = [*chunks()[:1], ERROR], [*chunks()[:1], ERRORS[1]]


@pytest.mark.parametrize(
    ("ask", "answer", "model"),
    [
        (chat_stream, FAILING, GPT),
        (async_chat_stream, FAILING, GPT),
        (post("/v1/chat/completions", messages=MESSAGES, stream=True), FAILING, GPT),
        (post("/v1/chat/completions", messages=MESSAGES, stream=True), FAILING_ALIKE, GPT),
        (messages_stream, events({"input_tokens": 70, "output_tokens": 1}, error=True), CLAUDE),
        (GEMINI, [{"candidates": GEMINIS["candidates"]}, ERROR], "gemini-2.5-flash"),
        pytest.param(llama_openai_stream, FAILING, GPT, marks=WITH_OPENAI),
        pytest.param(langchain_openai_stream, FAILING, GPT, marks=WITH_LANGCHAIN),
    ],
)
def test_a_stream_that_tells_of_an_error_has_failed(ask: Ask, answer: Canned, model: str):
    """However the stream itself ends."""
    event = asked(ask, answer, model, suppress(openai.APIError))
    assert event.status == "failed"
    assert event.prompt_token_count > 0
    assert event.completion_token_count > 0
    assert not is_exact(event)


# --- 19: provisional figures ---------------------------------------------------------------

START = {"input_tokens": 70, "cache_read_input_tokens": 0, "output_tokens": 2}
CUT, BROKEN = events(START), events(START, error=True)


@pytest.mark.parametrize(
    ("ask", "answer", "model"),
    [
        *[(messages_stream, answer, CLAUDE) for answer in (CUT, BROKEN)],
        (invoke_stream, on_aws(CUT), ON_AWS),
        *[
            pytest.param(ask, answer, CLAUDE, marks=mark)
            for ask, mark in (
                (llama_claude_stream, WITH_CLAUDES_USAGE),
                (llama_claude_astream, WITH_CLAUDES_USAGE),
                (watched_langchain_claude_stream, WITH_LANGCHAIN_CLAUDE),
            )
            for answer in (CUT, BROKEN)
        ],
    ],
)
def test_a_beginnings_output_is_a_lower_bound(ask: Ask, answer: Canned, model: str):
    """What has come since is counted."""
    event = asked(ask, answer, model)
    assert event.status == ("failed" if answer is BROKEN else "abandoned")
    assert event.prompt_token_count == 70
    assert event.completion_token_count > 10
    assert event.completion_source != "reported"
    assert "Canberra" in event.completion


@WITH_LANGCHAIN_CLAUDE
@pytest.mark.parametrize("answer", [CUT, BROKEN], ids=["cut", "error within"])
def test_of_a_beginning_that_langchain_drops_nothing_is_reported(answer: Canned):
    """Without a watch."""
    event = asked(langchain_claude_stream, answer, CLAUDE)
    assert event.prompt_token_count > 0
    assert event.completion_token_count > 10
    assert "reported" not in (event.prompt_source, event.completion_source)


@pytest.mark.parametrize(
    "ask",
    [
        converse_stream,
        pytest.param(llama_converse_stream, marks=WITH_BEDROCK),
        pytest.param(langchain_converse_stream, marks=WITH_LANGCHAIN_AWS),
    ],
)
def test_a_stream_cut_before_its_figures_is_marked(ask: Ask):
    """Converse's come at the end."""
    event = asked(ask, conversed_stream(LONG)[:2], ON_AWS, suppress(ConnectionError))
    assert event.completion_token_count > 10
    assert "reported" not in (event.prompt_source, event.completion_source)
