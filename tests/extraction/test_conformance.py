"""Our usage tables, compared with the extractors of genai-prices.

Both read the same bodies; each provider's figures must come out the same. What differs is
listed with its reason, and tested to differ still, so that a release of the library that
closes a gap, or opens one, fails here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import pytest
from genai_prices.data import providers
from genai_prices.types import ArrayMatch, ClauseEquals, UsageExtractor
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import Usage, extract_usage
from llama_token_tracker._names import LANGCHAIN_PROVIDERS, LISTED_PROVIDERS, PROVIDERS
from llama_token_tracker.extraction.shape import WireShape
from llama_token_tracker.extraction.shapes import anthropic, bedrock, cohere, gemini, openai
from llama_token_tracker.usage import BUCKETS

# Drawn examples take their time.
pytestmark = pytest.mark.slow

EXTRACTORS = {
    f"{provider.id}/{extractor.api_flavor}": extractor
    for provider in providers
    for extractor in provider.extractors or ()
}

COMPARED = {name for name in BUCKETS if not name.startswith("seen_")}
"""The buckets that both have; genai-prices has none for what Cohere saw but doesn't bill."""


def bucket(destination: str) -> str | None:
    """Our bucket for one of genai-prices', or `None` if there is none."""
    name = destination.replace("output_reasoning_", "reasoning_")
    return name if name in COMPARED else None


class Numbers(Protocol):
    """Where the figures of a body come from."""

    def count(self) -> int:
        """A figure that is always reported."""

    def parts(self, whole: int, *names: str) -> dict[str, int | None]:
        """Figures that may be reported, be null or be absent, and share no token of `whole`."""


class Complete:
    """Numbers of a body that reports all that it can."""

    def __init__(self) -> None:
        self._last = 10**6

    def count(self) -> int:
        """A figure other than all before."""
        self._last += 10**5
        return self._last

    def parts(self, whole: int, *names: str) -> dict[str, int | None]:
        """Half of what is left for each."""
        return {name: whole >> place for place, name in enumerate(names, 1)}


class Drawn:
    """Numbers that hypothesis draws."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw

    def count(self) -> int:
        """Any figure."""
        return self._draw(st.integers(0, 10**6))

    def parts(self, whole: int, *names: str) -> dict[str, int | None]:
        """Any figures whose sum is within `whole`."""
        found: dict[str, int | None] = {}
        for name in names:
            if self._draw(st.booleans()):
                found[name] = self._draw(st.none() | st.integers(0, whole))
                whole -= found[name] or 0
        return found


Body = dict[str, Any]
Make = Callable[[Numbers], Body]


def messages(numbers: Numbers) -> Body:
    """A body of Anthropic's Messages API: `input_tokens` leaves the cache out."""
    output = numbers.count()
    usage: Body = {"input_tokens": numbers.count(), "output_tokens": output}
    usage |= numbers.parts(10**6, "cache_read_input_tokens", "cache_creation_input_tokens")
    if written := usage.get("cache_creation_input_tokens"):
        usage["cache_creation"] = numbers.parts(
            written, "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
        )
    usage["output_tokens_details"] = numbers.parts(output, "thinking_tokens")
    return {"type": "message", "usage": usage}


def chat(
    *, cache: str = "cached_tokens", prompt: str = "", completion: str = "", apart: str = ""
) -> Make:
    """A body of OpenAI's Chat Completions, or of a provider that speaks a dialect of it.

    Args:
        cache: Fields of the prompt's details that share no token.
        prompt: The same, of modalities.
        completion: The same, of the completion's modalities.
        apart: Fields beside the prompt's and the completion's, which the total leaves out.
    """

    def body(numbers: Numbers) -> Body:
        usage: Body = {"prompt_tokens": numbers.count(), "completion_tokens": numbers.count()}
        usage["total_tokens"] = sum(usage.values())
        within = min(usage["prompt_tokens"], usage["completion_tokens"])
        details = numbers.parts(usage["prompt_tokens"], *cache.split())
        details |= numbers.parts(usage["prompt_tokens"], *prompt.split())
        usage["prompt_tokens_details"] = details
        details = numbers.parts(usage["completion_tokens"], "reasoning_tokens")
        details |= numbers.parts(usage["completion_tokens"], *completion.split())
        usage["completion_tokens_details"] = details
        return {"object": "chat.completion", "usage": usage | numbers.parts(within, *apart.split())}

    return body


def xai_chat(numbers: Numbers) -> Body:
    """A body of xAI's: its completion leaves reasoning out, its total doesn't."""
    body = chat(completion="audio_tokens")(numbers)
    details = body["usage"]["completion_tokens_details"]
    details |= numbers.parts(10**6, "reasoning_tokens")
    # If cached tokens are as many, the total doesn't tell which of the two it adds.
    cached = body["usage"]["prompt_tokens_details"].get("cached_tokens")
    if details.get("reasoning_tokens") == cached:
        details.pop("reasoning_tokens", None)
    body["usage"]["total_tokens"] += details.get("reasoning_tokens") or 0
    return body


def responses(details: str, *, written: str = "") -> Make:
    """A body of OpenAI's Responses API, with these details of the input."""

    def body(numbers: Numbers) -> Body:
        usage: Body = {"input_tokens": numbers.count(), "output_tokens": numbers.count()}
        usage["total_tokens"] = sum(usage.values())
        usage["input_tokens_details"] = numbers.parts(usage["input_tokens"], *details.split())
        usage["output_tokens_details"] = numbers.parts(usage["output_tokens"], "reasoning_tokens")
        usage["output_tokens_details"] |= numbers.parts(usage["output_tokens"], *written.split())
        return {"object": "response", "usage": usage}

    return body


def images(numbers: Numbers) -> Body:
    """A body of OpenAI's images API, which tells text and images apart."""
    usage: Body = {"input_tokens": numbers.count(), "output_tokens": numbers.count()}
    text, image = usage["input_tokens"] // 3, usage["input_tokens"] // 2
    usage["input_tokens_details"] = {"text_tokens": text, "image_tokens": image}
    usage["output_tokens_details"] = numbers.parts(
        usage["output_tokens"], "text_tokens", "image_tokens"
    )
    return {"usage": usage}


def realtime(numbers: Numbers) -> Body:
    """An event of OpenAI's Realtime API, at the end of a response."""
    usage: Body = {"input_tokens": numbers.count(), "output_tokens": numbers.count()}
    details: Body = numbers.parts(
        usage["input_tokens"], "text_tokens", "audio_tokens", "image_tokens"
    )
    usage["input_token_details"] = details | numbers.parts(usage["input_tokens"], "cached_tokens")
    usage["output_token_details"] = numbers.parts(
        usage["output_tokens"], "text_tokens", "audio_tokens"
    )
    return {"type": "response.done", "response": {"usage": usage}}


def xai_realtime(numbers: Numbers) -> Body:
    """XAI's event of that kind: the usage isn't within a response, and names its seconds."""
    usage = realtime(numbers)["response"]["usage"]
    return {"type": "response.done", "usage": usage | {"billable_audio_seconds": 3}}


def openai_embeddings(numbers: Numbers) -> Body:
    """A body of OpenAI's embeddings API."""
    count = numbers.count()
    return {"object": "list", "usage": {"prompt_tokens": count, "total_tokens": count}}


def converse(numbers: Numbers) -> Body:
    """A body of Bedrock's Converse: `inputTokens` leaves the cache out."""
    usage: Body = {"inputTokens": numbers.count(), "outputTokens": numbers.count()}
    usage |= numbers.parts(10**6, "cacheReadInputTokens", "cacheWriteInputTokens")
    if written := usage.get("cacheWriteInputTokens"):
        parts = numbers.parts(written, "5m", "1h")
        usage["cacheDetails"] = [{"ttl": ttl, "inputTokens": part} for ttl, part in parts.items()]
    return {"output": {}, "usage": usage}


def generate_content(numbers: Numbers) -> Body:
    """A body of Gemini's: thoughts and the prompts of tools are extra."""
    modalities = ("TEXT", "AUDIO", "IMAGE", "DOCUMENT", "VIDEO")

    def details(whole: int) -> list[Body]:
        parts = numbers.parts(whole, *modalities)
        return [{"modality": name, "tokenCount": part} for name, part in parts.items()]

    usage: Body = {"promptTokenCount": numbers.count(), "candidatesTokenCount": numbers.count()}
    usage |= numbers.parts(usage["promptTokenCount"], "cachedContentTokenCount")
    usage |= numbers.parts(10**6, "toolUsePromptTokenCount", "thoughtsTokenCount")
    usage["promptTokensDetails"] = details(usage["promptTokenCount"])
    usage["candidatesTokensDetails"] = details(usage["candidatesTokenCount"])
    usage["toolUsePromptTokensDetails"] = details(usage.get("toolUsePromptTokenCount") or 0)
    return {"candidates": [], "usageMetadata": usage}


def cohere_chat(numbers: Numbers) -> Body:
    """A body of Cohere's, which bills other tokens than the model saw."""
    billed = {"input_tokens": numbers.count(), "output_tokens": numbers.count()}
    usage: Body = {"billed_units": billed, "tokens": {name: n + 50 for name, n in billed.items()}}
    return {"usage": usage | numbers.parts(billed["input_tokens"], "cached_tokens")}


def cohere_tokens(numbers: Numbers) -> Body:
    """The same, with nothing but what the model saw."""
    usage = cohere_chat(numbers)["usage"]
    del usage["billed_units"]
    return {"usage": usage}


def cohere_embeddings(numbers: Numbers) -> Body:
    """A body of Cohere's embeddings."""
    return {"embeddings": [], "meta": {"billed_units": {"input_tokens": numbers.count()}}}


class Why(NamedTuple):
    """Why only one side reads a path, and where that is from."""

    reason: str
    source: str


@dataclass(frozen=True)
class Case:
    """One provider's wire format, and what only one side reads of it.

    Attributes:
        extractor: The provider's id and the flavour, as genai-prices names them.
        shape: The table that we read it by.
        place: The path of that table's fields.
        make: Makes a body.
        only_ours: Paths that only our table reads, and why.
        only_theirs: Paths that only the library reads into a bucket that we have, and why.
    """

    extractor: str
    shape: WireShape
    make: Make
    place: str = "usage"
    only_ours: dict[str, Why] = field(default_factory=dict)
    only_theirs: dict[str, Why] = field(default_factory=dict)

    def __str__(self) -> str:
        """Name it in a test's id."""
        return self.extractor


def unread(shape: WireShape) -> Why:
    """A field that the provider documents, and the library reads elsewhere only."""
    return Why("genai-prices reads it of other providers or flavours only", shape.source)


def beside(extractor: str) -> Why:
    """A field that the library knows, and no table of ours."""
    return Why("no integration that we count for passes it on", f"genai-prices 0.2.3: {extractor}")


THINKING = {"usage.output_tokens_details.thinking_tokens": unread(anthropic.MESSAGES)}
OPENAI_IMAGES = {
    "usage.prompt_tokens_details.image_tokens": unread(openai.CHAT),
    "usage.completion_tokens_details.image_tokens": unread(openai.CHAT),
}
REALTIME = Why(
    "no integration that we count for calls the Realtime API; its sums are read, its parts not",
    "https://platform.openai.com/docs/api-reference/realtime-server-events/response/done",
)
DOCUMENTS = Why("pages are images to the library; we have no bucket for them", gemini.JSON.source)
TOOLS = Why("we read the modalities of the prompt, not those of tools' prompts", gemini.JSON.source)
OPENAI_CHAT = chat(
    cache="cached_tokens cache_write_tokens",
    prompt="audio_tokens image_tokens",
    completion="audio_tokens image_tokens",
)
OPENAI_RESPONSES = responses("cached_tokens cache_write_tokens")
REALTIME_DETAILS = (
    "input_token_details.audio_tokens",
    "input_token_details.image_tokens",
    "input_token_details.cached_tokens",
    "output_token_details.audio_tokens",
)

CASES = [
    Case("anthropic/default", anthropic.MESSAGES, messages),
    Case("aws/anthropic", anthropic.MESSAGES, messages, only_ours=THINKING),
    Case("azure/anthropic", anthropic.MESSAGES, messages, only_ours=THINKING),
    Case("google/anthropic", anthropic.MESSAGES, messages, only_ours=THINKING),
    Case(
        "anthropic/chat",
        openai.CHAT,
        chat(cache="", apart="cached_tokens"),
    ),
    Case("openai/chat", openai.CHAT, OPENAI_CHAT, only_ours=OPENAI_IMAGES),
    Case("azure/chat", openai.CHAT, OPENAI_CHAT, only_ours=OPENAI_IMAGES),
    Case("openai/responses", openai.RESPONSES, OPENAI_RESPONSES),
    Case("azure/responses", openai.RESPONSES, OPENAI_RESPONSES),
    Case("openai/images", openai.RESPONSES, images),
    Case("openai/embeddings", openai.CHAT, openai_embeddings),
    Case("azure/embeddings", openai.CHAT, openai_embeddings),
    *(
        Case(
            name,
            anthropic.MESSAGES,
            realtime,
            "response.usage",
            only_theirs={f"response.usage.{path}": REALTIME for path in REALTIME_DETAILS},
        )
        for name in ("openai/realtime", "azure/realtime")
    ),
    Case("aws/default", bedrock.CONVERSE, converse),
    Case(
        "google/default",
        gemini.JSON,
        generate_content,
        "usageMetadata",
        only_theirs={
            "usageMetadata.promptTokensDetails[modality=document].tokenCount": DOCUMENTS,
            "usageMetadata.candidatesTokensDetails[modality=document].tokenCount": DOCUMENTS,
            "usageMetadata.toolUsePromptTokensDetails[modality=audio].tokenCount": TOOLS,
            "usageMetadata.toolUsePromptTokensDetails[modality=image].tokenCount": TOOLS,
            "usageMetadata.toolUsePromptTokensDetails[modality=document].tokenCount": DOCUMENTS,
        },
    ),
    Case("google/chat", openai.CHAT, chat(prompt="audio_tokens", completion="audio_tokens")),
    Case("mistral/default", openai.CHAT, chat()),
    Case("groq/default", openai.CHAT, chat(prompt="audio_tokens", completion="audio_tokens")),
    Case("deepseek/chat", openai.CHAT, chat(completion="audio_tokens")),
    Case("moonshotai/chat", openai.CHAT, chat(cache="cached_tokens cache_write_tokens")),
    Case("openrouter/chat", openai.CHAT, OPENAI_CHAT, only_ours=OPENAI_IMAGES),
    Case("openrouter/default", openai.RESPONSES, OPENAI_RESPONSES),
    Case("x-ai/chat", openai.CHAT, xai_chat),
    Case("x-ai/responses", openai.RESPONSES, responses("cached_tokens")),
    Case(
        "x-ai/default",
        openai.CHAT,
        chat(apart="cached_prompt_text_tokens reasoning_tokens"),
        only_ours={
            "usage.prompt_tokens_details.cached_tokens": unread(openai.CHAT),
            "usage.completion_tokens_details.reasoning_tokens": unread(openai.CHAT),
        },
        only_theirs={
            "usage.cached_prompt_text_tokens": beside("x-ai/default"),
            "usage.reasoning_tokens": beside("x-ai/default"),
        },
    ),
    Case(
        "x-ai/realtime",
        anthropic.MESSAGES,
        xai_realtime,
        only_theirs={
            "usage.input_token_details.audio_tokens": REALTIME,
            "usage.output_token_details.audio_tokens": REALTIME,
        },
    ),
    Case(
        "perplexity/default",
        openai.CHAT,
        chat(cache="", apart="reasoning_tokens citation_tokens"),
        only_ours={"usage.completion_tokens_details.reasoning_tokens": unread(openai.CHAT)},
        only_theirs={
            "usage.reasoning_tokens": beside("perplexity/default"),
            "usage.citation_tokens": Why(
                "we have no bucket for them; `Cost.is_whole` is `False` where they have a price",
                "genai-prices 0.2.3: perplexity/default",
            ),
        },
    ),
    Case(
        "perplexity/responses",
        openai.RESPONSES,
        responses("cache_read_input_tokens"),
        only_theirs={
            "usage.input_tokens_details.cache_read_input_tokens": beside("perplexity/responses")
        },
    ),
    Case("perplexity/embeddings", openai.CHAT, openai_embeddings),
    Case(
        "cohere/default",
        cohere.BILLED,
        cohere_chat,
        only_ours={"usage.cached_tokens": unread(cohere.BILLED)},
    ),
    Case("cohere/tokens", cohere.SEEN, cohere_tokens),
    Case("cohere/embeddings", cohere.BILLED, cohere_embeddings, "meta"),
]

NOT_COMPARED = {
    "mistral/ocr": "counts pages, not tokens",
    "mistral/ocr_annotated": "counts pages, not tokens",
    "openai/live": "counts seconds, not tokens",
    "openrouter/decisions": "an API that no integration calls",
    "openrouter/systemone": "the same",
    "perplexity/decisions": "the same",
}
"""Extractors of providers that we know, and why they aren't compared."""


def label(path: str, name: str, value: object) -> str:
    """The path of a list's entry, as our tables write it."""
    return f"{path}[{name}={str(value).lower()}]"


def entry(path: str, item: Body) -> str:
    """The same, of an entry in a body."""
    name = next(name for name in ("ttl", "modality") if name in item)
    return label(path, name, item[name])


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every figure in a body, by its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, entry(path, item))
    else:
        yield path, value


def without(value: Any, paths: set[str], path: str = "") -> Any:
    """A body without the figures at some paths."""
    if isinstance(value, dict):
        inner = {key: (f"{path}.{key}" if path else key) for key in value}
        return {
            key: without(value[key], paths, where)
            for key, where in inner.items()
            if where not in paths
        }
    if isinstance(value, list):
        return [without(item, paths, entry(path, item)) for item in value]
    return value


def read_by(extractor: UsageExtractor) -> set[str]:
    """The paths from which the library fills a bucket that we have."""
    found = set()
    for mapping in extractor.mappings:
        if bucket(mapping.dest) is None:
            continue
        steps = [
            step
            for part in (extractor.root, mapping.path)
            for step in ([part] if isinstance(part, str) else part)
        ]
        path = ""
        for step in steps:
            if isinstance(step, ArrayMatch):
                assert isinstance(step.match, ClauseEquals)
                path = label(path, step.field, step.match.equals)
            else:
                path = f"{path}.{step}" if path else step
        found.add(path)
    return found


def theirs(extractor: str, body: Body) -> dict[str, Any]:
    """What the library reads, by our buckets."""
    _, usage = EXTRACTORS[extractor].extract(body)
    named = {bucket(name): count for name, count in vars(usage).items()}
    return {name: count for name, count in named.items() if name is not None}


def ours(body: Body) -> dict[str, int]:
    """What we read, of the buckets that both have."""
    usage = extract_usage(body)
    counts = {} if usage is None else usage.reported()
    return {name: count for name, count in counts.items() if name in COMPARED}


@pytest.mark.parametrize("case", CASES, ids=str)
@given(data=st.data())
def test_a_usage_is_what_the_library_reads(case: Case, data: st.DataObject):
    """Any body of a wire format that both know gives the same inclusive buckets."""
    body = case.make(Drawn(data))
    body = without(body, {*case.only_ours, *case.only_theirs})
    assert ours(body) == theirs(case.extractor, body)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bodies_hold_all_that_the_library_reads(case: Case):
    """No path that an extractor reads is left out of the comparison, unless that is stated."""
    paths = {path for path, _ in leaves(case.make(Complete()))}
    read = read_by(EXTRACTORS[case.extractor])
    assert read <= paths
    known = {
        f"{case.place}.{path}"
        for path, names in case.shape.adds.items()
        if COMPARED.intersection(names)
    }
    assert {*case.only_theirs} == read - known
    assert {*case.only_ours} == (known & paths) - read


@pytest.mark.parametrize(
    ("case", "path"),
    [
        pytest.param(case, path, id=f"{case}-{path}")
        for case in CASES
        for path in (*case.only_ours, *case.only_theirs)
    ],
)
def test_a_known_difference_is_still_there(case: Case, path: str):
    """With a figure that only one side reads, the two differ; without it, they agree."""
    body = without(case.make(Complete()), {*case.only_ours, *case.only_theirs} - {path})
    assert ours(body) != theirs(case.extractor, body)
    body = without(body, {path})
    assert ours(body) == theirs(case.extractor, body)


def test_every_extractor_of_a_provider_that_we_know_is_compared():
    """A provider's new wire format in the library is noticed here."""
    names = {*PROVIDERS.values(), *LANGCHAIN_PROVIDERS.values()}
    known = {LISTED_PROVIDERS.get(name, name) for name in names}
    expected = {name for name in EXTRACTORS if name.partition("/")[0] in known}
    compared = {case.extractor for case in CASES}
    assert expected - compared == {*NOT_COMPARED}


@dataclass(frozen=True)
class Difference:
    """A body that the two read differently, though both know each of its fields.

    Attributes:
        reason: Why we read it as we do.
        source: Where that is from.
        extractor: The library's extractor.
        body: The body.
        ours: What we read.
        theirs: What the library reads, or the message with which it refuses.
    """

    reason: str
    source: str
    extractor: str
    body: Body
    ours: Usage
    theirs: dict[str, int] | str


DIFFERENCES = {
    "reasoning beside the completion": Difference(
        "Gemini's OpenAI endpoint leaves thoughts out of `completion_tokens`, but not out of "
        "`total_tokens`, and bills them as output.",
        "extraction/shapes/openai.py, `excluded`",
        "google/chat",
        {
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 85,
                "completion_tokens_details": {"reasoning_tokens": 70},
            }
        },
        Usage(input_tokens=10, output_tokens=75, reasoning_tokens=70),
        {"input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 70},
    ),
    "reasoning beside the completion, and no total": Difference(
        "The table for OpenAI's dialects doesn't know the provider: the total tells whether "
        "reasoning is within the completion, and xAI sends one.",
        "extraction/shapes/openai.py, `excluded`",
        "x-ai/chat",
        {
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 80,
                "completion_tokens_details": {"reasoning_tokens": 70},
            }
        },
        Usage(input_tokens=10, output_tokens=80, reasoning_tokens=70),
        {"input_tokens": 10, "output_tokens": 150, "reasoning_tokens": 70},
    ),
    "DeepSeek's own name for cached tokens": Difference(
        "DeepSeek documents this name; the library reads the one it shares with OpenAI.",
        "https://api-docs.deepseek.com/api/create-chat-completion",
        "deepseek/chat",
        {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 8}},
        Usage(input_tokens=10, output_tokens=5, cache_read_tokens=8),
        {"input_tokens": 10, "output_tokens": 5},
    ),
    "a modality that is listed twice": Difference(
        "Entries of one modality add up; the library takes the first.",
        "genai_prices.types.ArrayMatch.extract",
        "google/default",
        {
            "usageMetadata": {
                "promptTokenCount": 9,
                "promptTokensDetails": [
                    {"modality": "AUDIO", "tokenCount": 2},
                    {"modality": "AUDIO", "tokenCount": 3},
                ],
            }
        },
        Usage(input_tokens=9, input_audio_tokens=5),
        {"input_tokens": 9, "input_audio_tokens": 2},
    ),
    "a part that exceeds its whole": Difference(
        "A `Usage` contradicts nothing: such parts are left out, the billed sums stay.",
        "llama_token_tracker.usage.contradiction",
        "openai/chat",
        {
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"audio_tokens": 11},
            }
        },
        Usage(input_tokens=10, output_tokens=5),
        {"input_tokens": 10, "output_tokens": 5, "input_audio_tokens": 11},
    ),
    "half of a usage": Difference(
        "What was reported is kept, as of a stream that broke off; the library refuses it.",
        "genai_prices.types.UsageExtractorMapping.required",
        "openai/chat",
        {"usage": {"prompt_tokens": 10}},
        Usage(input_tokens=10),
        "Missing value at `usage.completion_tokens`",
    ),
    "a count that is text": Difference(
        "Text that stands for a whole number is a count: headers hold nothing else.",
        "llama_token_tracker.extraction.shape.to_count",
        "aws/default",
        {"usage": {"inputTokens": "10", "outputTokens": 5}},
        Usage(input_tokens=10, output_tokens=5),
        "Expected `usage.inputTokens` value to be a int or float or Decimal, got str",
    ),
}


@pytest.mark.parametrize("difference", DIFFERENCES.values(), ids=DIFFERENCES)
def test_what_both_know_but_read_differently(difference: Difference):
    """Each difference in rules is as stated, on both sides."""
    assert extract_usage(difference.body) == difference.ours
    if isinstance(difference.theirs, str):
        with pytest.raises(ValueError, match=difference.theirs):
            theirs(difference.extractor, difference.body)
    else:
        assert theirs(difference.extractor, difference.body) == difference.theirs
