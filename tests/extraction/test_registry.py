"""Tables of users' own: from when on they are read, by whom, and what is refused."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, ChatResponse

from llama_token_tracker import Usage, WireFormatError, WireShape, extract_usage, register_shape
from llama_token_tracker.extraction import SHAPES, StreamedUsage, is_silent, usage_parts
from llama_token_tracker.extraction.registry import forget_shapes

ACME = WireShape(
    name="acme.chat",
    source="https://acme.example/docs/usage",
    checked=date(2026, 11, 22),
    marks=("tokens_in", "tokens_out"),
    adds={
        "tokens_in": ("input_tokens",),
        "cached.tokens": ("input_tokens", "cache_read_tokens"),
        "tokens_out": ("output_tokens",),
    },
)
SAID = {"tokens_in": 5, "cached": {"tokens": 3}, "tokens_out": 2}
EXPECTED = Usage(input_tokens=8, cache_read_tokens=3, output_tokens=2)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Leave no table behind, nor meet one that another test left."""
    forget_shapes()
    yield
    forget_shapes()


def made(**changes: Any) -> WireShape:
    """Acme's table, changed."""
    return replace(ACME, **changes)


@pytest.mark.parametrize(
    "response",
    [
        SAID,
        {"usage": SAID},
        [{"delta": "a"}, {"usage": SAID}],
        ChatResponse(message=ChatMessage("hi"), raw={"usage": SAID}),
        ChatResponse(message=ChatMessage("hi"), additional_kwargs=SAID),
    ],
    ids=["usage", "body", "chunks", "LlamaIndex's", "copy"],
)
def test_a_registered_table_is_read_from_then_on(response: Any):
    """Also where the same kind of response was read without it before."""
    assert extract_usage(response) is None
    register_shape(ACME)
    assert extract_usage(response) == EXPECTED


def test_a_stream_that_runs_already_is_read_by_it():
    """Its later chunks are."""
    stream = StreamedUsage()
    assert not stream.add({"usage": SAID})
    register_shape(ACME)
    assert stream.add({"usage": SAID})
    reading = stream.read()
    assert reading.usage == EXPECTED


def test_what_was_learnt_of_a_layout_is_learnt_anew():
    """A chunk that held no figures, for all that was known, holds some now."""
    chunk = ChatResponse(message=ChatMessage("hi"), raw=SAID)
    assert extract_usage(chunk) is None
    assert is_silent(chunk)
    assert usage_parts(chunk) is not None
    register_shape(ACME)
    assert not is_silent(chunk)
    assert extract_usage(chunk) == EXPECTED
    assert not is_silent(chunk)
    # The body itself is the usage now, and is read at once.
    assert usage_parts(chunk) is None


def test_registering_a_table_twice_is_once():
    """An equal one is the same; one of the package's own is there already."""
    register_shape(ACME)
    register_shape(made())
    register_shape(SHAPES[0])
    assert extract_usage(SAID) == EXPECTED


def test_a_table_is_found_by_the_marks_that_are_its_own():
    """A key that another table reads stays that table's; by its own, a new one comes first."""
    gateway = made(
        name="acme.gateway",
        marks=("prompt_tokens", "acme_cached"),
        adds={
            "prompt_tokens": ("input_tokens",),
            "acme_cached": ("input_tokens", "cache_read_tokens"),
            "completion_tokens": ("output_tokens",),
        },
    )
    plain = {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
    before = extract_usage({"usage": plain})
    register_shape(gateway)
    assert extract_usage({"usage": plain}) == before
    assert extract_usage({"usage": plain | {"acme_cached": 60}}) == Usage(
        input_tokens=100, cache_read_tokens=60, output_tokens=7
    )


def test_of_two_registered_tables_the_later_comes_first():
    """Where a usage has marks of both."""
    register_shape(ACME)
    adds = {"tokens_in": ("input_tokens",), "acme_v2": ("output_tokens",)}
    register_shape(made(name="acme.v2", marks=("acme_v2",), adds=adds))
    assert extract_usage({"tokens_in": 5, "acme_v2": 1}) == Usage(input_tokens=5, output_tokens=1)
    assert extract_usage(SAID) == EXPECTED


@given(
    shape=st.sampled_from(SHAPES),
    data=st.data(),
)
def test_no_registered_table_changes_what_the_others_read(shape: WireShape, data: st.DataObject):
    """A usage without a mark of its own reads as before, whatever else the table reads."""
    paths = data.draw(st.lists(st.sampled_from(sorted(shape.outer_keys())), unique=True))
    usage = {path: data.draw(st.integers(0, 50)) for path in paths}
    forget_shapes()
    before = extract_usage({"usage": usage})
    marks = tuple(data.draw(st.lists(st.sampled_from(sorted(shape.outer_keys())), max_size=3)))
    adds = dict.fromkeys([*marks, "acme"], ("output_tokens",))
    register_shape(made(marks=(*marks, "acme"), adds=adds))
    assert extract_usage({"usage": usage}) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name is empty"),
        ({"marks": "tokens_in"}, r"marks is 'tokens_in'; give a tuple"),
        ({"marks": ()}, "has no marks"),
        ({"marks": ("usage.tokens",)}, r"no path begins with the mark 'usage\.tokens'"),
        ({"adds": ["tokens_in"]}, "`adds` is a list"),
        ({"adds": {"tokens_in": "input_tokens"}}, r"adds\['tokens_in'\] is 'input_tokens'"),
        ({"adds": {"tokens_in": ("inputs",)}}, "'inputs', which is no bucket; the buckets are in"),
        ({"adds": {"tokens_in[": ("input_tokens",)}}, r"the path 'tokens_in\[' can't be read"),
        ({"adds": {5: ("input_tokens",)}}, "a key of `adds` is no text"),
        ({"total": "all."}, r"the path 'all\.' can't be read"),
        ({"same": (("tokens_in", "tokens_inn"),)}, "'tokens_inn' is no path of `adds`"),
        ({"sure_in_stream_with": ("cached",)}, "'cached' is no path of `adds`"),
        ({"excluded": ("input_tokens",)}, "'input_tokens', which is part of nothing"),
    ],
)
def test_a_table_that_nothing_can_be_read_by_is_refused(changes: dict[str, Any], message: str):
    """When it's made, with what was found and the way out."""
    with pytest.raises(WireFormatError, match=message):
        made(**changes)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"tokens_in": ("input_tokens",)}, "a dict can't be registered; give a WireShape"),
        (WireShape, "a type can't be registered"),
        (made(name="openai.chat_completions"), "the name 'openai.chat_completions' is another"),
        (
            made(
                marks=("prompt_tokens", "total_tokens"),
                adds={"prompt_tokens": ("input_tokens",), "total_tokens": ("output_tokens",)},
            ),
            "'prompt_tokens' is read by langchain.invoke_model, 'total_tokens' is read by lang",
        ),
    ],
    ids=["no table", "a class", "name", "marks"],
)
def test_a_table_that_could_never_be_read_by_is_not_registered(table: Any, message: str):
    """Its name, or all of its marks, are taken; nothing has changed."""
    with pytest.raises(WireFormatError, match=message):
        register_shape(table)
    assert extract_usage(SAID) is None


def test_a_name_that_a_registered_table_has_is_taken():
    """A changed table of the same name isn't silently left out."""
    register_shape(ACME)
    with pytest.raises(WireFormatError, match=r"'acme\.chat' is another table's already"):
        register_shape(made(marks=("tokens_in",)))


def test_tables_are_registered_while_others_read():
    """Each thread's table is read at once, and nothing that was known is read otherwise."""
    wrong: list[object] = []

    def work(number: int) -> None:
        mark = f"acme_{number}"
        for turn in range(50):
            if turn == number:
                adds = {mark: ("input_tokens",)}
                register_shape(made(name=mark, marks=(mark,), adds=adds))
            known = extract_usage({"usage": {"inputTokens": 3, "outputTokens": turn}})
            own = extract_usage({"usage": {mark: 4}})
            if known != Usage(input_tokens=3, output_tokens=turn):
                wrong.append(known)
            if own != (Usage(input_tokens=4) if turn >= number else None):
                wrong.append((turn, number, own))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
