"""Makes the pictures of the documentation again: `python -m tests.pictures`, with Chromium.

They show figures and prices of `tests.views.cards`, so that they change when the card does, and a
report of a ledger as a terminal shows it.
"""

import io
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI

from llama_token_tracker import Ledger, TokenCountingEvent, TokenCountingHandler, Usage
from llama_token_tracker.cli.ledger_tables import LedgerTable
from llama_token_tracker.sinks.ledger.existing import existing
from llama_token_tracker.sinks.ledger.query import Query
from tests.views import chromium
from tests.views.cards import BUDGETS, PRICES, evening

FOLDER = Path(__file__).parent.parent / "docs" / "images"
WIDTH = 720
REPORT_WIDTH = 800
# Rounded corners would have the colour of the page in which the picture was taken.
_SQUARE = "<style>.ltt { border-radius: 0 !important }</style>"
_HEIGHT = "document.body.dataset.height = document.getElementById('out').offsetHeight"


def main() -> int:
    """Draw the card and a report by day and by night.

    Returns:
        The exit code: 1 if there's no browser.
    """
    if chromium.FOUND is None:
        print("there's no Chromium here; Debian has one: apt install chromium", file=sys.stderr)
        return 1
    handler = TokenCountingHandler(prices=PRICES, budget=BUDGETS)
    evening(handler.tracker)
    html = chromium.page(_SQUARE + handler._repr_html_(), width=WIDTH, script=_HEIGHT)
    FOLDER.mkdir(exist_ok=True)
    for theme, is_dark in (("light", False), ("dark", True)):
        _take(f"card-{theme}", html, WIDTH, is_dark=is_dark)
        _take(f"report-{theme}", _report(is_dark=is_dark), REPORT_WIDTH, is_dark=is_dark)
    return 0


def _take(name: str, html: str, width: int, *, is_dark: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = re.search(r'data-height="(\d+)"', chromium.dom(html, folder))
        assert found, "the browser didn't say how high it is"
        picture = chromium.picture(html, folder, (width, int(found[1])), is_dark=is_dark)
    # It has few colours, and a palette of them takes a third of the room.
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(160, Image.Quantize.MAXCOVERAGE)
    few.save(FOLDER / f"{name}.png", optimize=True)


def _report(*, is_dark: bool) -> str:
    """A report by month and model, as a terminal of 100 columns shows it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "usage.db"
        with Ledger(path) as ledger:
            for event in _calls():
                ledger(event)
        engine = existing(path)
        sums = Query(engine).sums("month", "model")
        engine.dispose()
    heading = ("Ledger: usage.db", "Time:   all, by the clocks of UTC")
    console = Console(width=100, record=True, file=io.StringIO(), force_terminal=True)
    console.print(LedgerTable(heading, sums, {}).render(console), highlight=False)
    theme = MONOKAI if is_dark else DEFAULT_TERMINAL_THEME
    text = console.export_html(theme=theme, inline_styles=True, code_format="{code}")
    colours = "background:#131416;color:#d5d6da" if is_dark else "background:#fff;color:#1d1d1f"
    style = f"{colours};margin:0;padding:14px 18px;font:12.5px/1.4 'DejaVu Sans Mono',monospace"
    return chromium.page(f'<pre style="{style}">{text}</pre>', width=REPORT_WIDTH, script=_HEIGHT)


def _calls() -> Iterator[TokenCountingEvent]:
    """Some hundred calls of two months, and one whose price nobody knows."""
    chance = random.Random(7)
    models = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5-20250929")
    for number in range(400):
        model = chance.choice(models) if number else "in-house-7b"
        usage = Usage(
            input_tokens=chance.randint(2_000, 9_000),
            output_tokens=chance.randint(50, 900),
            cache_read_tokens=chance.randint(0, 2_000),
        )
        yield TokenCountingEvent(
            "",
            "",
            usage.output_tokens or 0,
            usage.input_tokens or 0,
            usage=usage,
            prompt_source="reported",
            completion_source="reported",
            status="abandoned" if number % 90 == 5 else "complete",
            provider="anthropic" if model.startswith("claude") else "openai",
            model=model,
            started_s=datetime(2026, 10, 2, tzinfo=UTC).timestamp() + number * 12_000,
        )


if __name__ == "__main__":
    sys.exit(main())
