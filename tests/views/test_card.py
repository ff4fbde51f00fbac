"""The card of a handler, a scope and a call, in both its forms."""

import io
import pickle
import re
import subprocess
import sys
from copy import copy
from decimal import Decimal
from html import unescape
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.callbacks.token_counting import TokenCountingEvent as LlamaIndexsOwn
from rich.cells import cell_len

from llama_token_tracker import TokenCountingEvent, TokenCountingHandler, Tracker
from llama_token_tracker._printable import plain
from llama_token_tracker.views.card import RECENT, TOP, Call
from llama_token_tracker.views.figures import dollars, seconds, tokens
from tests.views.cards import BUDGETS, CLAUDE, Page, afternoon, evening, nasty, number, record

ALLOWED = {
    *("div", "style", "span", "bdi", "svg", "rect", "b", "details", "summary"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}
"""The elements of a card."""


UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def page(thing: Any) -> Page:
    """What a notebook would show."""
    return Page(thing._repr_html_())


def lines(thing: Any) -> dict[str, list[str]]:
    """The lines of the printed table, by label; of several with one label, the first."""
    found: dict[str, list[str]] = {}
    for line in str(thing).splitlines():
        label, *cells = re.split(r" {2,}", line.strip())
        found.setdefault(label, " ".join(cells).split())
    return found


def test_html_shows_the_figures_of_the_report():
    """Totals, buckets and rows are those that can be read by name."""
    tracker = afternoon()
    shown = page(tracker)
    usage = tracker.usage
    assert shown.terms["LLM tokens"].startswith(f"~{tracker.total_llm_token_count:,} ~")
    assert shown.terms["Embedding tokens"] == f"*{tracker.total_embedding_token_count:,} 12 texts"
    assert number(shown.parts["Cache read"]) == usage.cache_read_tokens
    assert number(shown.parts["Reasoning"]) == usage.reasoning_tokens
    assert shown.parts["Cache write"] == "not reported"
    assert sum(number(part) for part in shown.parts.values() if part != "not reported") == (
        tracker.total_llm_token_count
    )
    rows = tracker.by("model")
    assert list(rows) == [cells[0] for cells in shown.tables["By model"]]
    for label, calls, went_in, came_out, total, cost in shown.tables["By model"]:
        row = rows[label]
        assert (int(calls), number(went_in)) == (row.calls, row.usage.input_tokens)
        assert (number(came_out), number(total)) == (row.usage.output_tokens, row.total_tokens)
        assert cost == dollars(row.cost_usd)
    assert shown.terms["Cost"].startswith(dollars(tracker.total_cost_usd))
    assert "no price known for 1 call (580 tokens)" in shown.terms["Cost"]
    assert f"{dollars(tracker.estimated_cost_usd)} of it estimated" in shown.terms["Cost"]


def test_print_shows_the_same():
    """The printed table has the figures of the HTML, line by line."""
    tracker = afternoon()
    shown, printed = page(tracker), lines(tracker)
    assert tracker.summary() == str(tracker)
    for table in ("By model", "By scope"):
        for label, *figures in shown.tables[table]:
            assert printed[label] == figures
    for name, figure in shown.parts.items():
        assert printed[name.lower()] == ["-" if figure == "not reported" else figure]
    assert printed["LLM calls"][1:4] == ["~15,003", "~2,060", "~17,063"]


def test_a_scope_shows_its_own():
    """Under its path, with nothing from outside of it."""
    tracker = Tracker()
    record(tracker, (1, 1))
    with tracker.scope("a"), tracker.scope("b") as scope:
        record(tracker, (100, 10))
    assert str(scope).startswith("a/b: 1 call, 110 tokens,")
    assert page(scope).terms["LLM tokens"].startswith("110")


def test_a_call_shows_what_is_known_of_it():
    """Its buckets, its cost, its texts, its scope and its tags."""
    event = afternoon().llm_token_counts[0]
    shown = page(event)
    assert shown.terms["Input tokens"] == "4,200"
    assert (shown.terms["Scope"], shown.terms["user"]) == ("questions", "ada")
    assert shown.terms["Cost"].startswith("$0.0130")
    assert shown.parts == {
        "Uncached input": "1,200",
        "Cache read": "3,000",
        "Cache write": "not reported",
        "Output": "220",
        "Reasoning": "400",
    }
    assert "user: What is a tally?" in shown.text


def test_what_was_not_reported_is_marked_and_explained():
    """By a sign, not by a colour; and only where there is something to explain."""
    shown = page(afternoon())
    cells = {row[0]: row[1:] for row in shown.tables["Last calls"]}
    by_hand = "And in one word? my-own-model \u00b7 2026-09-10 00:31:40 UTC \u00b7 estimated"
    assert cells[by_hand][:2] == ["~500", "~80"]
    left_early = (
        "Sum it all up. claude-sonnet-4-5 \u00b7 2026-09-10 00:30:00 UTC \u00b7 summary \u00b7 "
        "counted \u00b7 abandoned"
    )
    assert cells[left_early][:2] == ["1,900", "*120"]
    for note in ("* counted here", "~ estimated here", "abandoned the reader left early"):
        assert note in shown.text
        assert note.split(" ", 1)[1] in str(afternoon())
    tracker = Tracker()
    record(tracker, (10, 5))
    assert not re.search(r"[*~]", page(tracker).text + str(tracker))
    assert "tokenizer" not in page(tracker).text


def test_an_unknown_cost_is_never_zero():
    """Where no price is known, that is said; where some are, that others are missing."""
    tracker = Tracker()
    record(tracker, (10, 5), model="of-nobody")
    for shown in (page(tracker).text, str(tracker), page(tracker.llm_token_counts[0]).text):
        assert "unknown" in shown
        assert "$" not in shown
    record(tracker, (1_000_000, 0), model="gpt-4o", provider="openai")
    assert dollars(tracker.total_cost_usd) + "+?" in str(tracker)
    assert "+? and what calls cost whose price isn't known" in page(tracker).text


def test_an_empty_handler_has_a_card():
    """Nothing was called, and nothing cost anything."""
    handler = TokenCountingHandler()
    assert str(handler).startswith("TokenCountingHandler: 0 calls, 0 tokens, no cost\n")
    assert repr(handler) == "<TokenCountingHandler: 0 calls, 0 tokens>"
    shown = page(handler)
    assert shown.tables == {}
    assert shown.terms["LLM tokens"] == "0 0 in, 0 out"
    assert "Cost" not in shown.terms


def test_many_models_scopes_and_calls_still_add_up():
    """The rest is one line, quickly, whatever there is."""
    tracker = Tracker()
    for call in range(10_000):
        if call % 100:
            record(tracker, (call, 1), model=f"model-{call % 50}", at_s=call)
        else:
            with tracker.scope(f"scope-{call}"):
                record(tracker, (call, 1), model=f"model-{call % 50}", at_s=call)
    began = perf_counter()
    shown, printed = page(tracker), str(tracker)
    # Pricing ten thousand calls included; a machine that stalls has time enough.
    assert perf_counter() - began < 20
    for table, rest in (("By model", 42), ("By scope", 93)):
        rows = shown.tables[table]
        assert len(rows) == TOP + 1
        assert rows[-1][0] == f"and {rest} more"
        assert f"and {rest} more" in printed
        assert sum(number(row[1]) for row in rows) == 10_000
        assert sum(number(row[4]) for row in rows) == tracker.total_llm_token_count
    calls = shown.tables["Last calls"]
    assert len(calls) == RECENT + 1
    assert calls[0][0].startswith("model-49 ")
    assert calls[-1][0] == "9,992 earlier calls"
    assert sum(number(row[1]) for row in calls) == tracker.prompt_llm_token_count
    assert len(shown.text) < 5_000


def test_calls_that_are_no_longer_listed_count_as_earlier():
    """Whatever `max_events` has dropped, the lines add up; failed calls are among the last."""
    tracker = Tracker(max_events=2)
    for call in range(5):
        record(tracker, (100, 10), at_s=call)
    record(tracker, (0, 0), status="failed", at_s=9)
    calls = page(tracker).tables["Last calls"]
    assert [row[0].endswith("failed") for row in calls[:-1]] == [True, False, False]
    assert calls[-1][:3] == ["3 earlier calls", "300", "30"]
    assert len(str(tracker).splitlines()) < 30


def test_events_of_llamaindex_are_in_the_totals():
    """One that was put in by hand knows no source, so that it's marked as an estimate."""
    handler = TokenCountingHandler()
    handler.llm_token_counts.append(
        LlamaIndexsOwn(prompt="", completion="", completion_token_count=2, prompt_token_count=3)
    )
    assert lines(handler)["LLM calls"] == ["1", "~3", "~2", "~5", "unknown"]
    assert lines(handler)["(added by hand)"] == ["1", "~3", "~2", "~5", "unknown"]


@pytest.mark.slow
@settings(deadline=None)  # the first call that is priced loads the price list
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**15),
            st.integers(0, 10**15),
            st.text(max_size=300),
            st.sampled_from(["reported", "counted", "estimated"]),
        ),
        max_size=12,
    )
)
def test_it_fits_into_80_columns(calls: list[tuple[int, int, str, Any]]):
    """Whatever models are called, and however much they used."""
    tracker = Tracker()
    for went_in, came_out, name, source in calls:
        with tracker.scope(name or "x") if name.strip() else tracker.scope("y"):
            record(tracker, (went_in, came_out), model=name, sources=(source, source), prompt=name)
    assert max(map(cell_len, str(tracker).splitlines())) <= 80
    shown = page(tracker)
    assert shown.tags <= ALLOWED


@pytest.mark.parametrize("thing", [nasty(), nasty().llm_token_counts[0]])
def test_foreign_texts_are_inert(thing: Any):
    """No element, control or bidi character of a prompt, a model, a scope or a tag gets through."""
    html = thing._repr_html_()
    assert Page(html).tags <= ALLOWED
    for text in (html, str(thing) if isinstance(thing, Tracker) else html):
        assert not re.search(
            "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", text
        )
        text.encode("utf-8")
    assert len(html) < 30_000


def test_plain_texts():
    """What can't be seen is seen, what is long is short, and what is fine stays as it is."""
    assert plain("a\n\tb\x00\x1b", 20) == "a b\u2400\u241b"
    assert plain("\u202eabc\u2066", 20) == "\ufffdabc\ufffd"
    assert plain("x" * 100, 5) == "xxxx…"
    assert plain("e" + "\u0301" * 50, 20) == "e\u0301\u0301"
    assert plain("日本語 שלום 👩\u200d🔬", 20) == "日本語 שלום 👩\u200d🔬"
    assert plain(b"bytes", 20) == "<bytes>"


def test_figures():
    """An unknown one has no number; no amount of money is rounded to nothing."""
    assert tokens(None) == "not reported"
    assert tokens(1234, "estimated") == "~1,234"
    amounts = {"0": "$0", "0.01234": "$0.0123", "0.12345": "$0.1234", "1234.5": "$1,234.50"}
    amounts |= {"0.00001234": "$0.0000123", "-0.00001234": "-$0.0000123"}
    amounts |= {"1E-15": "<$0.000000000001", "-1E-15": "-<$0.000000000001"}
    assert {amount: dollars(Decimal(amount)) for amount in amounts} == amounts
    assert dollars(None) == "unknown"
    assert [seconds(took) for took in (0.0002, 0.0312, 1.25)] == ["<1 ms", "31 ms", "1.2 s"]


def test_calls_of_a_template_are_told_apart():
    """By what was asked last, by when, how long and for whom; all of a long prompt is folded."""
    tracker = evening()
    first, second, *_ = (row[0] for row in page(tracker).tables["Last calls"])
    for question, user, took, cell in (
        ("How long were tally sticks kept?", "grace", "2.2 s", first),
        ("Who kept the other half of the stick?", "ada", "1.2 s", second),
    ):
        assert cell.startswith("Context information is below.")
        assert f"Query: {question} Answer:" in cell.split("system: You are")[0]
        assert cell.endswith(f"UTC \u00b7 {took} \u00b7 api \u00b7 user={user} \u00b7 reported")
        printed = " ".join(str(tracker).split())
        assert f"Query: {question} Answer:" in printed
        assert f"UTC, {took}, api, user={user}" in printed


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", ""),
        ("What is a tally?", "What is a tally?"),
        ("system: Be brief.\nuser: What is it?", "What is it?"),
        ("user: One?\nassistant: Two.\nuser: Three?\nassistant: \ntool: 4", "Three?"),
        ("user: A list:\nuser name\nsystems", "A list: user name systems"),
        ("user: " + "x" * 99 + "y", "x" * 99 + "y"),
        ("user: " + "x" * 100 + "y", "x" * 33 + " \u2026 " + "x" * 66 + "y"),
    ],
)
def test_the_last_message_of_a_user_is_shown(prompt: str, said: str):
    """Of a long one its beginning and its end."""
    assert Call.of(TokenCountingEvent(prompt, "", 1, 1)).said == said


def test_budgets_stand_on_the_card():
    """What each has spent, what that leaves, and whose accounts have used up most of theirs."""
    tracker = evening()
    overall, *users = page(tracker).tables["Budgets"]
    spent = tracker.total_cost_usd
    assert spent is not None
    assert overall == [
        "all calls",
        dollars(spent),
        "$0",
        "$0.2500",
        dollars(BUDGETS[0].usd - spent),
    ]
    until = "until 2026-09-11 00:00 UTC"
    assert [user[0] for user in users] == [
        f"user ada {until}",
        f"calls without user {until}",
        f"user grace {until}",
    ]
    rows = tracker.by("user")
    assert rows["ada"].total_tokens == 15_815
    assert users[0][1:] == ["15,815 tokens", "0 tokens", "15,000 tokens", "-815 tokens"]
    assert lines(tracker)["user ada"] == " ".join(users[0][1:]).split()
    fresh = Tracker(budget=BUDGETS)
    assert page(fresh).tables["Budgets"][1:] == [["each user", "", "", "15,000 tokens", ""]]
    for user in range(9):
        with fresh.scope("many", user=str(user)):
            record(fresh, (user, 0))
    shown = page(fresh).tables["Budgets"]
    assert [row[0].split(" until")[0] for row in shown[1:]] == [
        *("user 8", "user 7", "user 6", "user 5"),
        "and 5 more accounts",
    ]


def test_no_models_id_is_broken_in_print():
    """One that leaves no room for its figures has a line of its own, and they the next."""
    tracker = evening()
    printed = str(tracker).splitlines()
    assert sum(line.strip() == CLAUDE for line in printed) == 3
    row = tracker.by("model")[CLAUDE]
    below = printed[next(at for at, line in enumerate(printed) if CLAUDE in line) + 1]
    assert below.split() == ["2", "2,621", "84", "2,705", dollars(row.cost_usd)]


def test_rows_are_a_dict_that_shows_as_a_table():
    """In a terminal and in a notebook; and equal to the plain dict."""
    tracker = evening()
    rows = tracker.by("user")
    assert rows == dict(rows)
    assert isinstance(rows, dict)
    assert copy(rows)["ada"] == pickle.loads(pickle.dumps(rows))["ada"] == rows["ada"]
    shown = Page(rows._repr_html_()).tables["By user"]
    printed = lines(rows)
    assert [row[0] for row in shown] == ["ada", "(no user)", "grace"]
    for label, *figures in shown:
        assert printed[label] == figures
    assert "None" not in repr(rows)
    assert "~ estimated here" in str(rows)
    assert "None" not in repr(rows["ada"].usage)
    many = Tracker()
    for user in range(100):
        with many.scope("s", user=str(user)):
            record(many, (1, 1))
    assert "and 60 more" in repr(many.by("user"))
    assert len(repr(many.by("user")).splitlines()) < 50


def test_an_event_prints_as_one_line():
    """Of its model, figures, cost, time, owner and question; so does a list of them."""
    [event] = [event for event in evening().llm_token_counts if event.tags.get("user") == "grace"]
    assert str(event).startswith(
        f"TokenCountingEvent {CLAUDE}: 1,311 in, 42 out, cost $0.00502, reported, complete, "
        "2026-09-10 00:33:21 UTC, 2.2 s, api, user=grace: Context information is below."
    )
    assert str(event).endswith("Query: How long were tally sticks kept? Answer:")
    assert repr([event]) == f"[<{event}>]"
    event.usage, event.model = None, object()  # type: ignore[assignment]
    assert str(event).startswith("TokenCountingEvent")


@pytest.mark.parametrize("broken", [object(), "seven", None])
def test_what_cannot_be_read_never_breaks_what_shows_it(broken: Any):
    """An event that was edited into nonsense is a card that says so, or one without the event."""
    tracker = afternoon()
    total = tracker.total_cost_usd
    event = tracker.llm_token_counts[-1]
    for name in ("usage", "started_s", "tags", "model", "prompt", "status", "total_token_count"):
        setattr(event, name, broken)
        assert "ltt" in event._repr_html_()
        shown = page(tracker)
        assert shown.terms["LLM tokens"].startswith("~17,063")
        assert shown.terms["Cost"].startswith(dollars(total))
        assert sum(number(row[1]) for row in shown.tables["Last calls"]) == 15_003 + 12 * 412
        assert str(tracker).startswith("Tracker: 17 calls, ~22,007 tokens")
        assert repr(tracker) == "<Tracker: 17 calls, ~22,007 tokens>"


def test_what_cannot_be_added_up_is_said_to_be_so():
    """Where figures can't be read at all, a card says so; nothing is raised."""

    class Unreadable(Tracker):
        def catch_up(self) -> None:
            raise KeyError(self)

    for shown in (Unreadable()._repr_html_(), str(Unreadable()), repr(Unreadable())):
        assert "can't be shown: KeyError" in unescape(shown)


def test_counting_loads_no_view():
    """What draws tables, and what notebooks need, is loaded when somebody looks."""
    code = "import llama_token_tracker, sys; print({'rich', 'IPython'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_stream_without_unicode_gets_what_it_can_show(monkeypatch: pytest.MonkeyPatch):
    """Where standard output can't encode lines or letters, print gives others."""
    tracker = Tracker()
    record(tracker, (10, 5), model="日本語")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    print(tracker)
    sys.stdout.flush()
    assert b"???" in raw.getvalue()
