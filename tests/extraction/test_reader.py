"""Where usage may sit, which finding is believed, and that nothing is ever raised."""

import enum
import json
import math
import tracemalloc
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from pydantic import BaseModel, ConfigDict

from llama_token_tracker import Usage, extract_usage
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.extraction import SHAPES, StreamedUsage, WireShape
from llama_token_tracker.extraction.reader import extract_parts, usage_parts
from llama_token_tracker.extraction.registry import WITHIN

OPENAI = {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
CLAUDE = {"input_tokens": 40, "output_tokens": 7, "cache_read_input_tokens": 90}
EXPECTED = Usage(input_tokens=40, output_tokens=7)


@pytest.fixture(autouse=True)
def _notices_anew() -> Iterator[None]:
    """Let every test hear its own notices."""
    forget_notices()
    yield
    forget_notices()


def read_later(response: object) -> Usage | None:
    """Read a usage of what is kept of a response, where it can be put off."""
    parts = usage_parts(response)
    return extract_usage(response) if parts is None else extract_parts(parts).usage


def chat(raw: object = None, copy: Any = None, inner: Any = None) -> ChatResponse:
    """A LlamaIndex response with usage in up to three places."""
    message = ChatMessage(role="assistant", content="hi", additional_kwargs=inner or {})
    return ChatResponse(message=message, raw=raw, additional_kwargs=copy or {})


class Forty(enum.IntEnum):
    """An enumeration of one count."""

    A = 40


class Model(BaseModel):
    """A pydantic model with whatever fields it's given."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)


class Declared(BaseModel):
    """A pydantic model with a field for its usage."""

    usage: Any = None


@dataclass
class Plain:
    """A dataclass."""

    usage: Any = None


class Slotted:
    """An object without a `__dict__`."""

    __slots__ = ("usage",)

    def __init__(self, usage: object) -> None:
        self.usage = usage


VESSELS: dict[str, Callable[[Any], object]] = {
    "dict": lambda usage: {"usage": usage},
    "ordered dict": lambda usage: OrderedDict(usage=usage),
    "default dict": lambda usage: defaultdict(list, usage=usage),
    "user dict": lambda usage: UserDict(usage=usage),
    "mapping proxy": lambda usage: MappingProxyType({"usage": usage}),
    "model with extras": lambda usage: Model(usage=usage),
    "model": lambda usage: Declared(usage=usage),
    "constructed model": lambda usage: Model.model_construct(usage=Model(**usage)),
    "dataclass": lambda usage: Plain(usage),
    "slots": lambda usage: Slotted(SimpleNamespace(**usage)),
    "namespace": lambda usage: SimpleNamespace(usage=Model(**usage)),
    "list of chunks": lambda usage: [{"delta": "a"}, {"usage": usage}],
    "tuple of chunks": lambda usage: ({"usage": None}, {"usage": usage}),
}


@pytest.mark.parametrize("vessel", VESSELS.values(), ids=VESSELS)
def test_usage_is_found_in_every_kind_of_body(vessel: Callable[[Any], object]):
    """JSON, mappings, models, plain objects and lists of chunks are read alike."""
    assert extract_usage(vessel(OPENAI)) == EXPECTED
    assert extract_usage(chat(vessel(OPENAI))) == EXPECTED
    assert extract_usage(CompletionResponse(text="hi", raw=vessel(OPENAI))) == EXPECTED


@pytest.mark.parametrize("place", list(WITHIN))
def test_usage_is_found_in_every_place(place: str):
    """A usage is found where providers put it, at the top or one field further down."""
    for inner in WITHIN[place] or [None]:
        body = {place: OPENAI if inner is None else {inner: OPENAI}}
        assert extract_usage(body) == EXPECTED
        assert extract_usage(chat(body)) == EXPECTED
        assert extract_usage(chat(None, body)) == EXPECTED
        assert extract_usage([{}, body]) == EXPECTED
    assert extract_usage(OPENAI) == EXPECTED


def test_copies_are_read_where_raw_is_silent():
    """`additional_kwargs` of response and message hold the figures that `raw` doesn't."""
    for response in (
        chat(None, OPENAI),
        chat(None, None, OPENAI),
        chat({}, OPENAI),
        chat({"usage": None}, {"usage": OPENAI}),
        chat("text", OPENAI),
        chat(object(), None, {"usage": OPENAI}),
        CompletionResponse(text="hi", additional_kwargs=OPENAI),
    ):
        assert extract_usage(response) == EXPECTED


def test_legacy_bedrock_leaves_strings_behind():
    """Counts may come as text, as the headers they were."""
    copy = {"prompt_tokens": "40", "completion_tokens": " 7 ", "total_tokens": "47"}
    assert extract_usage(chat({"body": "…"}, copy)) == EXPECTED


def test_the_one_that_knows_more_wins():
    """Converse's `raw` knows of the cache; the copy's `prompt_tokens` leaves it out."""
    raw = {
        "usage": {
            "inputTokens": 1_234,
            "outputTokens": 56,
            "cacheReadInputTokens": 21_000,
            "cacheWriteInputTokens": 500,
        }
    }
    copy = {"prompt_tokens": 1_234, "completion_tokens": 56, "total_tokens": 1_290}
    full = Usage(
        input_tokens=22_734, output_tokens=56, cache_read_tokens=21_000, cache_write_tokens=500
    )
    for _ in range(2):
        assert extract_usage(chat(raw, copy)) == full
        assert extract_usage(chat(raw, copy, copy)) == full
    # The other way round too: what is in a copy alone is not lost.
    assert extract_usage(chat({"usage": copy}, raw)) == full


ZERO = {"prompt_tokens": 0, "completion_tokens": 0}


@pytest.mark.parametrize(
    ("usage", "copy", "expected"),
    [
        (OPENAI, {"prompt_tokens": 1, "completion_tokens": 1}, EXPECTED),
        (OPENAI, {**CLAUDE, "cache_read_input_tokens": 0}, EXPECTED),
        (OPENAI, CLAUDE, Usage(input_tokens=130, output_tokens=7, cache_read_tokens=90)),
        (ZERO, OPENAI, EXPECTED),
        ({**OPENAI, "completion_tokens": 0}, OPENAI, EXPECTED),
        (OPENAI, ZERO, EXPECTED),
    ],
)
def test_a_copy_that_knows_more_wins_wherever_it_stands(
    usage: dict[str, Any], copy: dict[str, Any], expected: Usage
):
    """So it is at each call, also when both forms have been seen before."""
    for _ in range(3):
        for places in ((copy, None), (None, copy), (copy, copy), (copy, dict(copy))):
            response = chat({"id": "x", "usage": usage}, *places)
            assert extract_usage(response) == read_later(response) == expected


def test_what_is_left_out_of_a_sum_is_seen_at_each_call():
    """OpenAI's total says whether cached tokens are outside of `prompt_tokens`."""
    inside = {
        "prompt_tokens": 140,
        "completion_tokens": 7,
        "total_tokens": 147,
        "prompt_tokens_details": {"cached_tokens": 100},
    }
    outside = {**inside, "prompt_tokens": 40}
    expected = Usage(input_tokens=140, output_tokens=7, cache_read_tokens=100)
    for _ in range(2):
        for usage in (inside, outside):
            response = chat({"id": "x", "usage": usage})
            assert extract_usage(response) == expected
            assert read_later(response) == expected


def test_among_equals_the_place_nearer_to_the_wire_wins():
    """Of two that know as much, the provider's own body is believed."""
    other = {"prompt_tokens": 1, "completion_tokens": 1}
    for _ in range(2):
        assert extract_usage(chat({"usage": OPENAI}, other, other)) == EXPECTED


def test_a_reported_zero_is_a_figure():
    """Zeros are reported; nulls and absent keys are not."""
    assert extract_usage({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}) == Usage(
        input_tokens=0, output_tokens=0
    )
    assert extract_usage({"usage": {"prompt_tokens": None, "completion_tokens": 0}}) == Usage(
        output_tokens=0
    )


def test_no_usage_is_none():
    """What carries no usage that is known says so."""
    for silent in (
        None,
        {},
        [],
        "",
        "prompt_tokens",
        0,
        {"usage": None},
        {"usage": {}},
        {"usage": "40"},
        {"usage": [OPENAI]},
        {"usage": {"prompt_tokens": None}},
        chat(),
        chat(None, {"tool_calls": []}),
        object(),
        Model,
        [[{"usage": OPENAI}]],
    ):
        assert extract_usage(silent) is None


@pytest.mark.parametrize("good", [40, 40.0, "40", "40.0", " 40 ", Forty.A], ids=repr)
def test_strings_and_floats_stand_for_integers(good: object):
    """A count may come as text, float or enumeration, and is an `int` here."""
    usage = extract_usage({"usage": {"prompt_tokens": good, "completion_tokens": 7}})
    assert usage == EXPECTED
    assert type(usage.input_tokens) is int


NO_COUNTS: dict[str, object] = {
    "negative": -1,
    "fractional": 1.5,
    "true": True,
    "words": "many",
    "empty": "",
    "nan": math.nan,
    "infinite": math.inf,
    "absurd": 10**13,
    "huge": 10**400,
    "ten thousand digits": "9" * 10_000,
    "surrogate": "\ud800",
    "list": [],
    "dict": {},
    "object": object(),
    "decimal": Decimal(40),
    "bytes": b"40",
}


@pytest.mark.parametrize("bad", NO_COUNTS.values(), ids=NO_COUNTS)
def test_what_is_no_count_is_left_out_and_said(bad: object, caplog: pytest.LogCaptureFixture):
    """A value that is no count takes nothing from the others, and is logged once."""
    for _ in range(3):
        usage = extract_usage({"usage": {"prompt_tokens": bad, "completion_tokens": 7}})
        assert usage == Usage(output_tokens=7)
    (record,) = caplog.records
    assert record.name == "llama_token_tracker"
    assert "not a count of tokens at openai.chat_completions: prompt_tokens" in record.message
    assert "it is left out" in record.message


def test_a_contradiction_leaves_the_bill(caplog: pytest.LogCaptureFixture):
    """Parts that cannot be true of their wholes are dropped; the wholes stand."""
    usage = {"input_tokens": 5, "output_tokens": 2, "output_tokens_details": {"thinking_tokens": 9}}
    assert extract_usage({"usage": usage}) == Usage(input_tokens=5, output_tokens=2)
    assert "contradiction in anthropic.messages" in caplog.text
    assert "reasoning_tokens (9) exceeds output_tokens (2)" in caplog.text


# --- a list of chunks, and a stream ---------------------------------------------------------


def test_a_list_of_chunks_is_a_stream():
    """Chunks that somebody kept give what the stream gave."""
    chunks = [
        {"usage": {"prompt_tokens": 40, "completion_tokens": None}},
        {"usage": None},
        {"usage": {"completion_tokens": 3}},
        {"usage": {"completion_tokens": 7}},
    ]
    assert extract_usage(chunks) == extract_usage(chat(chunks)) == EXPECTED
    stream = StreamedUsage()
    assert [stream.add(chat(chunk)) for chunk in chunks] == [True, False, True, True]
    assert stream.read().usage == EXPECTED


def test_a_chunk_may_be_a_list():
    """A chunk whose raw is a list of the provider's events is read event by event."""
    stream = StreamedUsage()
    assert stream.add(chat([{"usage": {"prompt_tokens": 40}}, {"usage": {}}]))
    assert stream.add(chat([{"usage": {"completion_tokens": 7}}]))
    assert not stream.add(chat([]))
    assert stream.read().usage == EXPECTED


def test_deep_nesting_is_not_followed():
    """A response that holds itself, or lists in lists, thousands deep, is silent."""
    deep: Any = {"usage": OPENAI}
    for _ in range(5_000):
        deep = {"raw": [deep]}
    assert extract_usage(deep) is None
    loop: dict[str, Any] = {}
    loop.update(raw=[loop], usage=loop, message=loop, response=loop, additional_kwargs=loop)
    assert extract_usage(loop) is None
    assert not StreamedUsage().add(loop)
    nested: Any = OPENAI
    for _ in range(5_000):
        nested = {"usage": nested}
    assert extract_usage(nested) is None


# --- the quick way and the thorough way -----------------------------------------------------

WIRE_KEYS = sorted({path for shape in SHAPES for path in shape.adds} | {"total_tokens"})
VALUES = st.one_of(
    st.none(),
    st.integers(-2, 60),
    st.sampled_from([0, 0, 5, 10, "12", 7.0, 1.5, True, "x", 10**13]),
)


def put(usage: dict[str, Any], path: str, value: object) -> None:
    """Put a value where a dotted path leads."""
    *parents, leaf = path.split(".")
    node: Any = usage
    for parent in parents:
        key, _, condition = parent.partition("[")
        if condition:
            name, _, wanted = condition.rstrip("]").partition("=")
            entry = {name: wanted} if name else {}
            node.setdefault(key, []).append(entry)
            node = entry
        else:
            node = node.setdefault(key, {})
    node[leaf] = value


@st.composite
def wire_usages(draw: st.DrawFn) -> dict[str, Any]:
    """A usage of one shape, with keys of another thrown in now and then."""
    shape = draw(st.sampled_from(SHAPES))
    paths = draw(st.lists(st.sampled_from(sorted(shape.adds)), unique=True, min_size=1))
    if shape.total is not None and draw(st.booleans()):
        paths.append(shape.total)
    if draw(st.integers(0, 4)) == 0:
        paths += draw(st.lists(st.sampled_from(WIRE_KEYS), max_size=2))
    usage: dict[str, Any] = {}
    for path in paths:
        top = path.split(".")[0].partition("[")[0]
        # Two shapes may put a number, an object or a list under one and the same key.
        kind = int if "." not in path else list if "[" in path else dict
        if top in usage and (kind is int or not isinstance(usage[top], kind)):
            continue
        put(usage, path, draw(VALUES))
    if draw(st.integers(0, 3)) == 0:
        usage["service_tier"] = "standard"
    return usage


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    """A provider's body: one usage, two, or none, among other fields."""
    body: dict[str, Any] = {}
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from([*WITHIN, ""]))
        usage = draw(wire_usages())
        if not place:
            body.update(usage)
            continue
        inner = draw(st.sampled_from(WITHIN[place])) if WITHIN[place] else None
        body[place] = draw(
            st.sampled_from([usage, Model(**usage) if "model_config" not in usage else usage])
        )
        if inner is not None:
            body[place] = {inner: body[place]}
    if draw(st.booleans()):
        body["id"] = "x"
    return draw(st.sampled_from([body, body, Model(**body)]))


MAYBE_BODIES = st.none() | bodies()


@st.composite
def responses(draw: st.DrawFn) -> object:
    """A LlamaIndex response, or a stand-in for one, with usage in any of its places."""
    raw = draw(MAYBE_BODIES | st.lists(bodies(), max_size=3))
    copy, inner = draw(wire_usages() | st.just({})), draw(wire_usages() | st.just({}))
    if draw(st.integers(0, 3)) == 0:
        return CompletionResponse(text="hi", raw=raw, additional_kwargs=copy)
    return chat(raw, copy, inner)


@given(st.lists(responses(), min_size=1, max_size=6), st.randoms())
def test_what_is_read_later_is_what_is_read_at_once(listed: list[object], random):
    """Whatever forms were learned before, a response reads as if it were the first."""
    expected = [extract_usage(response) for response in listed]
    order = list(range(len(listed))) * 2
    random.shuffle(order)
    for index in order:
        usage = expected[index]
        assert extract_usage(listed[index]) == usage, listed[index]
        assert read_later(listed[index]) == usage


COMMON = {
    "openai": {**OPENAI, "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0}},
    "openai.responses": {
        "input_tokens": 40,
        "output_tokens": 7,
        "total_tokens": 47,
        "output_tokens_details": {"reasoning_tokens": 3},
    },
    "anthropic": {
        "input_tokens": 3,
        "output_tokens": 50,
        "cache_read_input_tokens": 21_500,
        "cache_creation_input_tokens": 12,
        "cache_creation": {"ephemeral_5m_input_tokens": 12, "ephemeral_1h_input_tokens": 0},
    },
    "converse": {"inputTokens": 12, "outputTokens": 5, "cacheReadInputTokens": 100},
    "gemini": {
        "prompt_token_count": 12,
        "candidates_token_count": 5,
        "thoughts_token_count": 7,
        "cached_content_token_count": None,
        "prompt_tokens_details": [{"modality": "TEXT", "token_count": 12}],
    },
}


@pytest.mark.parametrize("usage", COMMON.values(), ids=COMMON)
def test_common_usages_can_be_read_later(usage: dict[str, Any]):
    """What holds each provider's ordinary usage is kept without being read, once one was seen."""
    response = chat({"id": "x", "usage": usage}, copy=dict(OPENAI))
    expected = extract_usage(response)
    parts = usage_parts(response)
    assert expected is not None
    assert parts is not None
    assert extract_parts(parts).usage == extract_usage(response) == expected


def test_what_is_kept_can_be_changed_afterwards():
    """Whoever changes a response after its call ended doesn't change what the call used."""
    usage = dict(COMMON["anthropic"])
    response = chat({"id": "x", "usage": usage})
    expected = extract_usage(response)
    parts = usage_parts(response)
    assert parts is not None
    usage["input_tokens"] = usage["cache_read_input_tokens"] = 10**6
    assert extract_parts(parts).usage == expected


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_each_key_may_be_null_the_next_time(shape: WireShape):
    """A form that was learned is read rightly with any of its keys null, and with any two."""
    full: dict[str, Any] = {}
    for number, path in enumerate(sorted({*shape.adds, shape.total or "id"})):
        with suppress(TypeError):  # one shape has a number and a list under one name
            put(full, path, 10 ** (number % 6))
    for first, second in product(full, repeat=2):
        for usage in (full, {**full, first: None}, {**full, first: None, second: None}, full):
            response = chat({"id": "x", "usage": usage})
            assert extract_usage(response) == read_later(response)


@given(st.lists(wire_usages(), min_size=2, max_size=5))
def test_forms_that_differ_in_nulls_alone_are_not_confused(usages: list[dict[str, Any]]):
    """A form is learned from one response; nulls in the next one change nothing else."""
    for usage in usages:
        for key in usage:
            with_null = {**usage, key: None}
            for each in (usage, with_null, usage):
                response = chat({"id": "x", "usage": each})
                assert extract_usage(response) == read_later(response)


# --- hostile things -------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([*WIRE_KEYS, "usage"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*WITHIN, *(key.split(".")[0].split("[")[0] for key in WIRE_KEYS), "raw"]
            )
            | st.integers()
            | st.none()
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@pytest.mark.slow
@given(JSON)
@example({"usage": {1: 2, None: 3, "prompt_tokens": 5}})
def test_anything_json_like_is_read_or_is_silent(body: object):
    """Whatever JSON, and worse, a provider sends: the answer is a usage or nothing."""
    for response in (body, chat(body), SimpleNamespace(raw=body, additional_kwargs=body)):
        for _ in range(2):
            usage = extract_usage(response)
            assert usage is None or Usage(**usage.reported()) == usage
    stream = StreamedUsage()
    stream.add(body)
    reading = stream.read()
    assert reading.usage is None or Usage(**reading.usage.reported()) == reading.usage


@given(JSON)
def test_reading_changes_nothing(body: object):
    """A response is the user's: reading it leaves it as it is."""
    before = json.dumps(body, skipkeys=True, sort_keys=False)
    extract_usage(body)
    extract_usage(chat(body))
    assert json.dumps(body, skipkeys=True, sort_keys=False) == before


class Raises:
    """Raises whatever it's asked."""

    def __getattribute__(self, name: str) -> Any:
        """Refuse."""
        raise RuntimeError(name)


class RaisesAttributes:
    """Has attributes that raise."""

    def __getattr__(self, name: str) -> Any:
        """Refuse."""
        raise ZeroDivisionError(name)


class RaisesMapping(UserDict):
    """A mapping that can't be read."""

    def __iter__(self) -> Iterator[Any]:
        """Refuse."""
        raise OSError

    def keys(self) -> Any:
        """Refuse."""
        raise OSError


class Liar:
    """Says that it's a dict."""

    @property
    def __class__(self) -> Any:
        """Lie."""
        return dict


class OddInt(int):
    """An integer that can't become a float."""

    def __float__(self) -> float:
        """Refuse."""
        raise RuntimeError


class OddKey(str):
    """A key that can't be compared."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        """Refuse."""
        raise RuntimeError


class Endless:
    """Has every attribute, for ever."""

    def __getattr__(self, name: str) -> "Endless":
        """Give another one."""
        return Endless()


# It makes another for whatever it's asked, keeps it, and takes its time: one is enough.
MOCK = MagicMock()
EVIL: dict[str, Callable[[], Any]] = {
    "raises": Raises,
    "raises attributes": RaisesAttributes,
    "raising mapping": lambda: RaisesMapping(usage=1),
    "liar": Liar,
    "endless": Endless,
    "mock": lambda: MOCK,
    "mock of a dict": lambda: MagicMock(spec=dict),
    "odd integer": lambda: OddInt(5),
    "odd keys": lambda: {OddKey("usage"): OPENAI, OddKey("prompt_tokens"): 1},
    "empty model": lambda: Declared.__new__(Declared),
    "empty response": lambda: CompletionResponse.model_construct(),
    "odd class": lambda: type("Meta", (type,), {"__getattr__": lambda *_: 1 / 0})("Odd", (), {}),
    "generator": lambda: (chunk for chunk in ()),
    "bytes": lambda: b"bytes",
    "set": lambda: {1, 2},
    "not implemented": lambda: NotImplemented,
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
def test_hostile_objects_are_silent(evil: Callable[[], Any]):
    """Objects that raise, lie, or never end are no usage, wherever they turn up."""
    for thing in (
        evil(),
        {"usage": evil()},
        {"usage": {"prompt_tokens": evil()}},
        {"usage": {"cacheDetails": [evil()], "inputTokens": evil()}},
        {"raw": evil(), "message": evil(), "additional_kwargs": evil()},
        [evil(), {"usage": evil()}],
        SimpleNamespace(raw=evil(), message=evil(), additional_kwargs=evil()),
        SimpleNamespace(raw=evil(), message=SimpleNamespace(additional_kwargs=evil())),
    ):
        for _ in range(2):
            usage = extract_usage(thing)
            assert usage is None or usage.total_tokens in (1, 5)
        StreamedUsage().add(thing)


def test_a_hostile_part_leaves_the_rest_readable():
    """A field that raises doesn't cost the figures beside it."""
    for evil in (Raises(), RaisesAttributes(), Liar()):
        body = {"usage": OPENAI, "metadata": evil, "message": evil, "response": evil}
        assert extract_usage(body) == EXPECTED
        assert extract_usage(SimpleNamespace(raw=body, message=evil)) == EXPECTED


def test_what_raises_is_logged_once(caplog: pytest.LogCaptureFixture):
    """An object whose attributes raise is one notice, however many attributes it has."""
    for _ in range(3):
        assert extract_usage(RaisesAttributes()) is None
    assert len(caplog.records) == 1


def test_forms_that_never_come_again_fill_no_memory():
    """A provider that invents keys for ever is read, and what is remembered stays bounded."""
    for number in range(2_000):
        body = {f"key{number}": 1, "usage": {**OPENAI, f"key{number}": 1}}
        assert extract_usage(chat(body, {f"key{number}": 1})) == EXPECTED


def test_forms_with_long_keys_fill_no_memory():
    """Wherever in an answer they stand."""
    tracemalloc.start()
    try:
        before = 0
        for number in range(400):
            key = f"key{number}" * 2_000
            usage = {**OPENAI, key: {key: 1}, "completion_tokens_details": {key: 1}}
            assert extract_usage(chat({key: 1, "usage": usage, "data": [{key: 1}]}, {})) == EXPECTED
            if number == 10:
                before = tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[0] - before < 1_000_000
    finally:
        tracemalloc.stop()
