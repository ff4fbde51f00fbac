"""What is recorded of one call."""

import pickle
from copy import deepcopy
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest
from llama_index.core.callbacks import token_counting as core

from llama_token_tracker import TokenCountingEvent, Usage
from llama_token_tracker.llama_index.handler import LlamaIndexEvent
from llama_token_tracker.usage import Source, weaker

EVENT = LlamaIndexEvent(
    prompt="user: hello",
    completion="assistant: hi",
    completion_token_count=2,
    prompt_token_count=5,
    event_id="outer",
    usage=Usage(input_tokens=5, output_tokens=2, cache_read_tokens=1),
    prompt_source="reported",
    completion_source="counted",
    provider="anthropic",
    model="claude",
    started_s=1_700_000_000.5,
    duration_s=0.25,
    inner_event_id="inner",
    span_id="LLM.chat-1",
    inner_span_id="LLM.chat-2",
)


def test_the_total_follows_from_the_counts():
    """Whatever total is passed, the event holds the sum of its two counts."""
    assert TokenCountingEvent("a", "b", 2, 3, 99).total_token_count == 5
    assert replace(EVENT, prompt_token_count=10).total_token_count == 12


def test_the_first_six_fields_are_those_of_llamaindex():
    """An event can be made, positionally too, as LlamaIndex's own is."""
    ours = TokenCountingEvent("a", "b", 2, 3, 0, "id")
    theirs = core.TokenCountingEvent("a", "b", 2, 3, 0, "id")
    assert asdict(theirs).items() <= asdict(ours).items()
    assert list(asdict(ours))[:6] == list(asdict(theirs))


def test_a_handlers_event_is_one_of_llamaindex():
    """Code that asks for LlamaIndex's class finds it."""
    assert isinstance(EVENT, core.TokenCountingEvent)
    assert isinstance(EVENT, TokenCountingEvent)


def test_an_event_survives_copies_and_pickles():
    """Copies and pickles of an event are equal to it."""
    for copy in (deepcopy(EVENT), pickle.loads(pickle.dumps(EVENT)), replace(EVENT)):
        assert copy == EVENT
        assert type(copy) is LlamaIndexEvent
    assert replace(EVENT, completion="another") != EVENT


def test_an_event_becomes_a_dict():
    """All fields, the buckets of its usage included, become plain data."""
    fields = asdict(EVENT)
    assert fields["usage"]["cache_read_tokens"] == 1
    assert fields["usage"]["reasoning_tokens"] is None
    assert LlamaIndexEvent(**{**fields, "usage": EVENT.usage}) == EVENT


def test_an_events_text_leaves_span_ids_out():
    """What an event prints as tells of the call, not of the dispatcher's spans."""
    text = repr(EVENT)
    assert "5 in, " in text
    assert "LLM.chat" not in text


def test_the_start_is_a_moment_in_utc():
    """The start is an aware time, or unknown."""
    assert EVENT.started_at == datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)
    assert TokenCountingEvent("", "", 0, 0).started_at is None


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("reported", "reported", "reported"),
        ("reported", "counted", "counted"),
        ("counted", "estimated", "estimated"),
        ("estimated", "reported", "estimated"),
    ],
)
def test_the_weaker_source_speaks_for_both(left: Source, right: Source, expected: Source):
    """Two counts together are as good as the worse of them."""
    assert weaker(left, right) == weaker(right, left) == expected
    event = TokenCountingEvent("", "", 0, 0, prompt_source=left, completion_source=right)
    assert event.source == expected
