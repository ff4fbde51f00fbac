"""Trackers to draw cards of, and a reader of what was drawn."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, Final

from llama_token_tracker import Budget, TokenCountingEvent, Tracker, Usage
from llama_token_tracker.events.event import Status
from llama_token_tracker.pricing import Prices
from llama_token_tracker.pricing.own import Price
from llama_token_tracker.usage import Source

PRICES: Final = {
    "gpt-4o": Price(input_mtok="2.5", output_mtok="10", cache_read_mtok="1.25"),
    "claude-sonnet-4-5": Price(input_mtok="3", output_mtok="15"),
    "us.anthropic.claude-sonnet-4-5-20250929-v1:0": Price(input_mtok="3.3", output_mtok="16.5"),
    "text-embedding-3-small": Price(input_mtok="0.02"),
}
"""Prices that no list changes: the cards in the documentation stay as they are."""

EVENING_S: Final = 1_789_000_000.0


def record(
    tracker: Tracker,
    tokens: tuple[int, int],
    *,
    model: str | None = "gpt-4o",
    sources: tuple[Source, Source] = ("reported", "reported"),
    status: Status = "complete",
    prompt: str = "",
    at_s: float = 0,
    **more: Any,
) -> None:
    """Record a call."""
    buckets = more.pop("buckets", {})
    went_in, came_out = tokens
    event = TokenCountingEvent(
        prompt,
        more.pop("completion", ""),
        came_out,
        went_in,
        usage=Usage(input_tokens=went_in, output_tokens=came_out, **buckets),
        prompt_source=sources[0],
        completion_source=sources[1],
        status=status,
        model=model,
        started_s=EVENING_S + at_s,
        **more,
    )
    tracker.record(event, tracker.context({}))


def afternoon(tracker: Tracker | None = None) -> Tracker:
    """What a small app might have used: every source, an unknown price, scopes, a cache."""
    tracker = tracker or Tracker(prices=Prices(PRICES))
    for number in range(12):
        record(
            tracker,
            (412, 0),
            model="text-embedding-3-small",
            sources=("counted", "counted"),
            operation="embedding",
            prompt=f"Page {number} of the notes",
            at_s=number,
        )
    with tracker.scope("questions", user="ada"):
        for number, question in enumerate(
            ("What is a tally?", "Who kept the other half?", "How long were they kept?")
        ):
            record(
                tracker,
                (4_200 + number, 620),
                buckets={"cache_read_tokens": 3_000, "reasoning_tokens": 400},
                prompt=f"user: {question}",
                at_s=100 + number,
            )
    with tracker.scope("summary"):
        record(
            tracker,
            (1_900, 120),
            model="claude-sonnet-4-5",
            sources=("reported", "counted"),
            status="abandoned",
            prompt="user: Sum it all up.",
            at_s=200,
        )
    record(
        tracker,
        (500, 80),
        model="my-own-model",
        sources=("estimated", "estimated"),
        prompt="user: And in one word?",
        at_s=300,
    )
    return tracker


CLAUDE: Final = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"

_CLOCK: Final[Callable[[], datetime]] = lambda: datetime.fromtimestamp(EVENING_S, UTC)  # noqa: E731

BUDGETS: Final = (
    Budget(usd="0.25", clock=_CLOCK),
    Budget(tokens=15_000, per="user", window="1 day", clock=_CLOCK),
)

RETRIEVED: Final = (
    "system: You are an expert Q&A system that is trusted around the world.\n"
    "user: Context information is below.\n---------------------\n"
    + "A tally stick was split in two, and each side kept a half of the record.\n"
    * 12
    + "---------------------\nGiven the context information and not prior knowledge, answer the "
    "query.\nQuery: {}\nAnswer: "
)
"""LlamaIndex's own template for a question to documents."""


def evening(tracker: Tracker | None = None) -> Tracker:
    """An afternoon with budgets and, at its end, questions to documents with long prompts."""
    tracker = afternoon(tracker or Tracker(prices=Prices(PRICES), budget=BUDGETS))
    questions = ("Who kept the other half of the stick?", "How long were tally sticks kept?")
    for number, (user, question) in enumerate(zip(("ada", "grace"), questions, strict=True)):
        with tracker.scope("api", user=user):
            record(
                tracker,
                (1_310 + number, 42),
                model=CLAUDE,
                prompt=RETRIEVED.format(question),
                completion="The debtor kept the other half of the stick. " * 6,
                at_s=400 + number,
                duration_s=1.25 + number,
            )
    return tracker


NASTY: Final = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "</div></bdi></td></table></style><style>*{display:none}</style>&lt;b&gt; "
    "\u202egnisrever\u2066\u200f\x00\x07\x1b[31m\x9b\ud800\u2028e" + "\u0301" * 300 + "x" * 5_000
)
"""What a prompt, a model or a tag may hold to do harm."""


SHORT_NASTY: Final = "\u202e\x1b[2J\x07\ud800\u2066\u2028</td>" + "e" + "\u0301" * 30
"""The same, short enough for a label."""


def nasty() -> Tracker:
    """A tracker all of whose texts want to do harm."""
    tracker = Tracker()
    for number, text in enumerate((NASTY, SHORT_NASTY, NASTY)):
        with tracker.scope(f"{text}{number}", **{text: text}):
            record(
                tracker,
                (10, 5),
                model=text,
                prompt=text,
                completion=text,
                provider=text,
                at_s=number,
            )
    return tracker


class Page(HTMLParser):
    """What a piece of HTML holds.

    Attributes:
        tables: The rows of each table by its caption, each a list of cells.
        terms: The values that have names, by name.
        parts: The figures of the legend, by name.
        tags: The names of all elements.
        text: All text but styles.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.terms: dict[str, str] = {}
        self.parts: dict[str, str] = {}
        self.tags: set[str] = set()
        self.text = ""
        self._open: list[tuple[str, str]] = []
        self._said = self._term = ""
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        """Note an element; none may have an attribute that runs or loads anything."""
        for name, value in attributes:
            assert not name.startswith("on"), name
            assert name not in {"src", "href", "style"}, (name, value)
        self.tags.add(tag)
        kind = dict(attributes).get("class", "")
        self._open.append((tag, kind))
        if tag in {"td", "caption"} or kind in {"name", "value", "part"}:
            self._said = ""
        if tag == "tr" and ("tbody", "") in self._open:
            self.tables[self._caption].append([])

    def handle_data(self, data: str) -> None:
        """Note a text."""
        if self._open and self._open[-1][0] != "style":
            self._said += data
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        """Note what an element held; elements must close in turn."""
        opened, kind = self._open.pop()
        assert opened == tag
        if tag == "caption":
            self._caption = self._said
            self.tables[self._caption] = []
        elif tag == "td":
            self.tables[self._caption][-1].append(self._said.strip())
        elif kind == "name":
            self._term = self._said
        elif kind == "value":
            self.terms[self._term] = self._said.strip()
        elif kind == "part":
            name, figure = re.match(r"(\D+?) ([*~]?[\d,]+|not reported)", self._said).groups()  # type: ignore[union-attr]
            self.parts[name] = figure


def number(shown: str) -> int:
    """The number in a figure."""
    return int(shown.lstrip("*~").replace(",", ""))
