"""Cards and rows as text, for `print`: at most 80 columns, of which only labels are ever wrapped.

A label that leaves no room for its figures has a line of its own, so that no model's id is cut.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from rich.cells import cell_len, chop_cells

from llama_token_tracker._printable import plain
from llama_token_tracker.views.card import Call, Card, Figure, Line, Standing, amount
from llama_token_tracker.views.figures import dollars, mark, plural, tokens, with_fallback

COLUMNS: Final = 80
"""How wide a card is at the most."""

_LONGEST_FIGURE: Final = 10**12
_INDENT: Final = "  "
_RULE: Final = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"


class _Row(NamedTuple):
    """A row of a table: its label, its figures, and lines below that have no columns."""

    label: str
    figures: Sequence[str] = ()
    below: Sequence[str] = ()


def safely(draw: Callable[[], str], title: str) -> str:
    """Draw something, or, if that fails, a line that says so.

    Args:
        draw: What draws it.
        title: What was to be shown.
    """
    return with_fallback(draw, lambda why: f"<{plain(title, COLUMNS)} {why}>")


def card(card: Card) -> str:
    """Draw a card, with no sign in it that standard output can't encode.

    Args:
        card: What to show.
    """
    head = f"{card.title}: {short(card)}, {_cost(card)}"
    return _shown([*_wrapped(head), "", *_sums(card), *_standings(card), *_calls(card)], card.notes)


def rows(name: str, lines: Iterable[Line], notes: Iterable[tuple[str, str]]) -> str:
    """Draw rows as a table.

    Args:
        name: What the rows are split by.
        lines: The rows.
        notes: Signs in them, and their meanings.
    """
    return _shown(_table(_Row(f"By {name}", _FIGURES), map(_line, lines)), notes)


def short(card: Card) -> str:
    """How many calls a card is of, and how many tokens they used.

    Args:
        card: What to show.
    """
    return f"{plural(card.total.row.calls, 'call')}, {tokens(*card.total.total)} tokens"


_FIGURES: Final = ("Calls", "Input", "Output", "Total", "Cost")


def _shown(lines: Iterable[str], notes: Iterable[tuple[str, str]]) -> str:
    noted = [line for sign, meaning in notes for line in _wrapped(f"{sign} {meaning}", " ")]
    text = "\n".join(line.rstrip() for line in (*lines, *noted)).rstrip()
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if _RULE.encode(encoding, "replace") == b"?":
        text = text.replace(_RULE, "-")
    return text.encode(encoding, "replace").decode(encoding)


def _wrapped(text: str, indent: str = "") -> list[str]:
    """A text in lines, broken between words, or, where one is too long, within it."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cell_len(lines[-1]) + cell_len(word) < COLUMNS - len(indent):
            lines[-1] += f" {word}"
        else:
            lines += chop_cells(word, COLUMNS - len(indent)) or [""]
    return [indent + line for line in lines]


def _table(head: _Row, rows: Iterable[_Row]) -> list[str]:
    listed = list(rows)
    columns = zip(*[row.figures for row in (head, *listed) if row.figures], strict=True)
    widths = [max(map(cell_len, column)) + 2 for column in columns]
    room = COLUMNS - sum(widths) - 1

    def drawn(row: _Row) -> Iterable[str]:
        columns = zip(row.figures, widths, strict=False)
        figures = "".join(" " * (width - cell_len(figure)) + figure for figure, width in columns)
        label = f" {row.label}"
        if cell_len(label) > room and row.figures:
            yield from chop_cells(label, COLUMNS)
            label = ""
        yield label + " " * (room - cell_len(label)) + figures
        for line in row.below:
            yield from _wrapped(line, " " + _INDENT)

    rule = " " + _RULE * (COLUMNS - 2)
    return [*drawn(head), rule, *chain.from_iterable(map(drawn, listed)), ""]


def _cost(card: Card) -> str:
    money = card.total.money
    if not card.total.row.calls:
        return "no cost"
    cost = [f"cost {dollars(money.usd)}", *money.doubts]
    if card.cache_savings_usd:
        cost.append(f"{dollars(card.cache_savings_usd)} saved by caches")
    return ", ".join(cost)


def _sums(card: Card) -> list[str]:
    rows = [_line(card.llm)]
    for part in card.parts:
        shown = _figure(part.figure)
        cells = (shown, "") if part.is_input else ("", shown)
        rows.append(_Row(f"{_INDENT}{part.name.lower()}", ("", *cells, "", "")))
    if card.embedding is not None:
        rows += [_line(card.embedding), _line(card.total)]
    for heading, lines in (("By model", card.models), ("By scope", card.scopes)):
        if lines:
            rows += [_Row(""), _Row(heading), *(_line(line, _INDENT) for line in lines)]
    return _table(_Row("Tokens", _FIGURES), rows)


def _line(line: Line, indent: str = "") -> _Row:
    figures = [_figure(figure) for figure in (line.input, line.output, line.total)]
    return _Row(indent + line.label, (f"{line.row.calls:,}", *figures, amount(line.money)))


def _figure(figure: Figure) -> str:
    shown = tokens(*figure)
    if figure.tokens is None or abs(figure.tokens) < _LONGEST_FIGURE:
        return "-" if figure.tokens is None else shown
    return f"{mark(figure.source)}{figure.tokens:.3e}"


def _standings(card: Card) -> list[str]:
    if not card.budgets:
        return []
    names = ("Spent", "Reserved", "Limit", "Left")
    return _table(_Row("Budgets", names), map(_standing, card.budgets))


def _standing(line: Standing) -> _Row:
    below = [line.until] if line.until else []
    return _Row(line.label, (line.spent, line.reserved, line.limit, line.left), below)


def _calls(card: Card) -> list[str]:
    if not card.recent:
        return []
    rows = [_call(call) for call in card.recent]
    if card.earlier is not None:
        earlier = card.earlier
        figures = (_figure(earlier.input), _figure(earlier.output), amount(earlier.money))
        rows.append(_Row(earlier.label, (*figures, "", "")))
    return _table(_Row("Last calls", ("Input", "Output", "Cost", "Source", "Status")), rows)


def _call(call: Call) -> _Row:
    figures = (_figure(call.input), _figure(call.output), amount(call.money))
    below = (call.said, ", ".join(call.origin))
    return _Row(call.model, (*figures, call.source, call.status), [line for line in below if line])
