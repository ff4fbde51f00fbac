"""Prompts cost what the providers bill, and what is guessed is marked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.extraction.parts import (
    Document,
    Image,
    Message,
    Opaque,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from llama_token_tracker.tokenizers import as_tokenizer, count_messages, count_tokens, get_tokenizer
from tests.needs import needs

_JARGON = [
    Message.of(
        "system",
        "You are a helpful, pattern-following assistant that translates corporate "
        "jargon into plain English.",
    ),
    Message(
        "system",
        (Text("New synergies will help drive top-line growth."),),
        name="example_user",
    ),
    Message(
        "system",
        (Text("Things working well together will increase revenue."),),
        name="example_assistant",
    ),
    Message(
        "system",
        (
            Text(
                "Let's circle back when we have more bandwidth to touch base on "
                "opportunities for increased leverage."
            ),
        ),
        name="example_user",
    ),
    Message(
        "system",
        (Text("Let's talk later when we're less busy about how to do better."),),
        name="example_assistant",
    ),
    Message.of(
        "user",
        "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    ),
]
_PLACE = {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}
_WEATHER = Tool(
    "get_current_weather",
    "Get the current weather in a given location",
    {
        "type": "object",
        "properties": {
            "location": _PLACE,
            "unit": {
                "type": "string",
                "description": "The unit of temperature to return",
                "enum": ["celsius", "fahrenheit"],
            },
        },
        "required": ["location"],
    },
)
_ASKED = [
    Message.of(
        "system",
        "You are a helpful assistant that can answer to questions about the weather.",
    ),
    Message.of("user", "What's the weather like in San Francisco?"),
]


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-3.5-turbo", 129),
        ("gpt-4-0613", 129),
        ("gpt-4", 129),
        ("gpt-4o", 124),
        ("gpt-4o-mini", 124),
    ],
)
def test_openais_messages_cost_what_the_api_counted(model: str, tokens: int) -> None:
    """The cookbook's example, compared there with the API."""
    counted = count_messages(_JARGON, model=model)

    assert (counted.tokens, counted.source) == (tokens, "counted")


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("gpt-3.5-turbo", 105), ("gpt-4", 105), ("gpt-4o", 101), ("gpt-4o-mini", 101)],
)
def test_openais_tools_cost_what_the_api_counted(model: str, tokens: int) -> None:
    """The cookbook's example of tools, compared there with the API."""
    counted = count_messages(_ASKED, model=model, tools=[_WEATHER])

    assert (counted.tokens, counted.source) == (tokens, "counted")


def test_models_that_nobody_compared_are_marked() -> None:
    """Later models cost about as much, which is said to be an estimate."""
    counted = count_messages(_ASKED, model="gpt-5", tools=[_WEATHER])

    assert (counted.tokens, counted.source) == (101, "estimated")
    assert "gpt-5" in counted.estimates[0]


def test_nested_parameters_are_counted_and_marked() -> None:
    """No rule covers them; leaving them out would be worse."""
    flat = Tool("f", "d", {"properties": {"a": _PLACE}})
    items = {"type": "object", "properties": {"b": _PLACE}}
    nested = Tool("f", "d", {"properties": {"a": {**_PLACE, "items": items}}})

    first = count_messages(_ASKED, model="gpt-4o", tools=[flat])
    second = count_messages(_ASKED, model="gpt-4o", tools=[nested])
    assert first.source == "counted"
    assert second.source == "estimated"
    assert second.tokens > first.tokens


@needs("ctok")
def test_claudes_system_prompt_has_no_frame_of_its_own() -> None:
    """The first example of Anthropic's page on counting: 14 tokens."""
    messages = [
        Message.of("system", "You are a scientist"),
        Message.of("user", "Hello, Claude"),
    ]
    assert count_messages(messages, model="claude-opus-4-1").tokens == 14


@needs("ctok")
def test_claudes_tools_cost_what_the_documentation_says() -> None:
    """The second example of Anthropic's page on counting: 403 tokens."""
    tool = Tool(
        "get_weather",
        "Get the current weather in a given location",
        {"type": "object", "properties": {"location": _PLACE}, "required": ["location"]},
    )
    counted = count_messages(_ASKED[1:], model="claude-opus-4-1", tools=[tool])

    assert (counted.tokens, counted.source) == (403, "estimated")


@pytest.mark.parametrize(
    ("model", "auto", "any_"),
    [
        ("claude-opus-4-8", 290, 410),
        ("us.anthropic.claude-opus-4-7-v1:0", 675, 804),
        ("claude-haiku-4-5-20251001", 496, 588),
        ("claude-sonnet-4-20250514", 313, 315),
        ("claude-opus-4-1@20250805", 313, 315),
        ("claude-3-5-sonnet-20241022", 346, 313),
        ("claude-3-5-sonnet-20240620", 294, 261),
        ("anthropic.claude-3-opus-20240229-v1:0", 530, 281),
        ("claude-sonnet-5", 354, 474),
    ],
)
def test_claudes_tools_come_with_a_system_prompt(model: str, auto: int, any_: int) -> None:
    """The published preamble of each model, by what the model may do."""
    plain = count_messages(_ASKED, model=model).tokens
    free = count_messages(_ASKED, model=model, tools=[Tool("f")])
    forced = count_messages(_ASKED, model=model, tools=[Tool("f")], tool_choice="any")
    definition = free.tokens - plain - auto

    assert 0 < definition < 50
    assert forced.tokens - plain - definition == any_


def test_claudes_frame_is_counted_once_a_message() -> None:
    """A message costs its frame, each of its texts only its text."""
    tokenizer = get_tokenizer("claude-sonnet-4-5")
    text = tokenizer.count("Hello")
    parts = Message("user", (Text("Hello"), Text("Hello")))

    counted = count_messages([parts, parts], model="claude-sonnet-4-5")
    assert counted.tokens == 2 * tokenizer.frame + 4 * text
    assert counted.source == "estimated"


def test_claudes_images_follow_the_model() -> None:
    """The same image costs more where the model sees more of it."""
    message = Message("user", (Image(3840, 2160),))

    assert count_messages([message], model="claude-sonnet-4-5").tokens == 1560 + 7
    assert count_messages([message], model="claude-opus-4-8").tokens == 4784 + 6


def test_openais_images_follow_the_detail() -> None:
    """Detail decides, and is taken for high when the API may choose."""
    costs = {
        detail: count_messages([Message("user", (Image(1024, 1024, detail),))], model="gpt-4o")
        for detail in ("low", "high", "auto")
    }
    assert costs["high"].tokens - costs["low"].tokens == 680
    assert costs["auto"].tokens == costs["high"].tokens
    assert [costs[d].source for d in ("low", "high", "auto")] == [
        "counted",
        "counted",
        "estimated",
    ]


@pytest.mark.parametrize("model", ["gpt-4o", "claude-opus-4-8", "claude-2", "llama"])
def test_an_image_of_unknown_size_is_estimated(model: str) -> None:
    """A URL is not fetched: the image counts as one of typical size."""
    unknown = count_messages([Message("user", (Image(),))], model=model)
    typical = count_messages([Message("user", (Image(1024, 1024),))], model=model)

    assert unknown.tokens == typical.tokens
    assert "an image of unknown size" in unknown.estimates


def test_claude_1_and_2_see_one_text_of_turns() -> None:
    """Turns are joined as the old API joined them."""
    messages = [
        Message.of("system", "Be brief."),
        Message.of("user", "tell me a joke about ai"),
    ]
    wire = "Be brief.\n\nHuman: tell me a joke about ai\n\nAssistant:"

    counted = count_messages(messages, model="anthropic.claude-v2:1")
    assert counted.tokens == count_tokens(wire, model="claude-2")


def test_a_tokenizer_that_is_given_counts_the_texts() -> None:
    """The user's tokenizer goes before the model's own."""
    words = as_tokenizer(str.split)
    counted = count_messages([Message.of("user", "one two three")], model="gpt-4o", tokenizer=words)

    assert counted.tokens == 3 + 3 + 1 + 3


_text = st.text(st.characters(), max_size=10)
_inner: st.SearchStrategy[Text | Image | Document | Opaque] = st.one_of(
    st.builds(Text, _text),
    st.builds(Image, st.none() | st.integers(-1, 5000), st.none() | st.integers(0, 5000)),
    st.builds(Document, _text, st.integers(0, 3)),
    st.builds(Opaque, _text),
)
_part: st.SearchStrategy[Part] = st.one_of(
    _inner,
    st.builds(Thinking, _text),
    st.builds(ToolCall, _text, _text),
    st.builds(ToolResult, st.lists(_inner, max_size=3).map(tuple), st.none() | _text),
)
_message = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool", "developer"]),
    st.lists(_part, max_size=4).map(tuple),
    st.none() | _text,
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
)
_schema = st.fixed_dictionaries({}, optional={"properties": _json}) | st.dictionaries(
    _text, _json, max_size=2
)
_tool = st.builds(Tool, _text, _text, _schema)
_models = st.sampled_from(
    [
        "gpt-4o",
        "gpt-5-mini",
        "o3",
        "claude-2",
        "claude-3-opus",
        "claude-opus-4-8",
        "llama",
    ]
)


@given(_models, st.lists(_message, max_size=4), st.lists(_tool, max_size=2))
def test_any_prompt_is_counted(model: str, messages: list[Message], tools: list[Tool]) -> None:
    """No content raises, and an estimate always says what it is."""
    counted = count_messages(messages, model=model, tools=tools)

    assert counted.tokens >= 0
    assert (counted.source == "estimated") == bool(counted.estimates)


@given(_models, st.lists(_message, max_size=3), _message)
def test_another_message_never_makes_a_prompt_cheaper(
    model: str, messages: list[Message], message: Message
) -> None:
    """Costs grow with the prompt."""
    shorter = count_messages(messages, model=model).tokens
    longer = count_messages([*messages, message], model=model).tokens

    # Joined into one text, two turns may share a token at their seam.
    assert longer >= shorter - (1 if model == "claude-2" else 0)


def test_a_schema_that_contains_itself_is_no_error() -> None:
    """Not even a structure without an end raises."""
    schema: dict[str, object] = {}
    schema["properties"] = {"a": schema}

    for model in ("gpt-4o", "claude-opus-4-8", "claude-2", "llama"):
        assert count_messages([], model=model, tools=[Tool("f", "d", schema)]).tokens > 0
