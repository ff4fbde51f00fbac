"""Cards as HTML, for notebooks: one element that brings its own style and nothing that runs.

It loads nothing, and whatever a prompt, a model or a tag holds stays text. Where a viewer
strips styles and pictures, tables remain. Its rules are as specific as three ids, so that they win
over all that notebooks say of tables, and the first of them take back whatever those say of the
card and of any element in it.
"""

from collections.abc import Callable, Iterable
from html import escape
from typing import Final

from llama_token_tracker._printable import plain
from llama_token_tracker.views.card import (
    COMPLETE,
    TITLE_LENGTH,
    Call,
    Card,
    EventCard,
    Figure,
    Line,
    Part,
    Standing,
    amount,
)
from llama_token_tracker.views.figures import (
    NOT_REPORTED,
    dollars,
    plural,
    tokens,
    with_fallback,
)

_COLOURS: Final = {
    "light": (
        "color-scheme:light;--bg:#fff;--fg:#1f2328;--dim:#59636e;--line:#d1d9e0;--warn:#9a3412;"
        "--c0:#0969da;--c1:#1a7f8e;--c2:#6e40c9;--c3:#bc4c00;--c4:#7d5a00"
    ),
    "dark": (
        "color-scheme:dark;--bg:#161b22;--fg:#e6edf3;--dim:#a5b0bb;--line:#3d444d;--warn:#ffb38a;"
        "--c0:#58a6ff;--c1:#39c5cf;--c2:#bc8cff;--c3:#ff9a5c;--c4:#d9b33c"
    ),
}
"""Text has a contrast of at least 4.5 to 1, parts of the bar of 3 to 1."""

_LIGHT_THEMES: Final = (
    "[data-jp-theme-light=true]",
    ".vscode-light",
    "[theme=light]",
    "[data-theme=light]",
    "#notebook-container",
)
_DARK_THEMES: Final = (
    "[data-jp-theme-light=false]",
    ".vscode-dark",
    ".vscode-high-contrast:not(.vscode-high-contrast-light)",
    "[theme=dark]",
    "[data-theme=dark]",
)
"""How JupyterLab, VS Code, Colab and Sphinx's themes say which theme is on; it wins over the
system's. The classic notebook is always light."""

_CARD: Final = ".ltt:not(#l#t#t)"
"""The card. There is no such id; that there's none counts as much as if there were."""


def _themed(themes: Iterable[str], colours: str) -> str:
    return ",".join(f"{theme} {_CARD}" for theme in themes) + "{" + _COLOURS[colours] + "}"


# Inherited properties begin anew at the card, and within it the browser's own sheet applies. The
# sizes in a picture are attributes, which only `revert-layer` leaves as they are.
_RESET: Final = (
    ("", "all:initial"),
    ("*", "all:revert-layer"),
    ("*:where(:not(svg,svg *))", "all:revert"),
    ("*", "box-sizing:border-box"),
    ("::before, ::after, *::before, *::after", "content:none"),
)

_RULES: Final = (
    (
        "",
        "display:block;container-type:inline-size;box-sizing:border-box;min-width:192px;"
        "max-width:960px;padding:12px 14px;border:1px solid var(--line);border-radius:8px;"
        "background:var(--bg);color:var(--fg);font:13px/1.45 system-ui,sans-serif;"
        "font-variant-numeric:tabular-nums;text-align:left;overflow-x:auto",
    ),
    ("bdi", "overflow-wrap:anywhere"),
    (".head, .sums, .legend", "display:flex;flex-wrap:wrap;align-items:baseline"),
    (".head", "gap:0 10px"),
    (".title", "font-size:15px;font-weight:600"),
    (".dim, th, .name", "color:var(--dim)"),
    (".warn", "color:var(--warn)"),
    (".sums", "gap:8px 28px;margin:10px 0"),
    (".sums>div", "min-width:0"),
    (".name", "font-size:12px"),
    (".name, .value", "display:block;overflow-wrap:anywhere"),
    (".big", "display:block;font-size:19px;font-weight:600;line-height:1.25"),
    (".bar", "display:block;width:100%;height:12px;border-radius:3px"),
    (".legend", "gap:2px 16px;margin:6px 0 10px"),
    (".legend svg", "display:inline-block;width:10px;height:10px;margin-right:5px"),
    *((f".c{number}", f"fill:var(--c{number})") for number in range(5)),
    (
        "table",
        "width:100%;margin:14px 0 0;border-collapse:collapse;font-size:inherit;color:inherit",
    ),
    ("caption", "text-align:left;font-weight:600"),
    (
        "th, td",
        "padding:3px 0 3px 12px;border-top:1px solid var(--line);text-align:right;"
        "vertical-align:top;white-space:nowrap",
    ),
    ("th", "font-weight:400;border-top:0;font-size:12px"),
    (
        "th:first-child, td:first-child",
        "padding-left:0;text-align:left;white-space:normal;width:99%;min-width:10em",
    ),
    (".origin", "display:block;font-size:12px"),
    # So a date, or a model's id, is broken only where it's wider than the card.
    (".origin *", "display:inline-block;max-width:100%"),
    ("summary", "cursor:pointer;overflow-wrap:anywhere"),
    (
        ".text",
        "margin:2px 0 8px;max-height:11em;overflow:auto;overflow-wrap:anywhere;"
        "border-left:3px solid var(--line);padding-left:8px",
    ),
    (".notes", "margin:10px 0 0;font-size:12px;color:var(--dim)"),
)

# Each line becomes a block on its own, its figures below its name.
_NARROW_RULES: Final = (
    ("thead", "display:none"),
    ("table, tbody, tr, caption", "display:block"),
    ("tr", "border-top:1px solid var(--line);padding:3px 0"),
    ("td", "display:inline-block;border:0;padding:0 12px 0 0;text-align:left;white-space:normal"),
    ("td:first-child", "display:block;width:auto;min-width:0;padding-right:0"),
    ("td[data-l]::before", "all:revert;content:attr(data-l) ' ';color:var(--dim)"),
)


def _within(what: str) -> str:
    """The selector of something in the card, or, if it's empty or starts with a colon, of it."""
    return f"{_CARD}{what}" if not what or what.startswith(":") else f"{_CARD} {what}"


def _css(rules: Iterable[tuple[str, str]]) -> str:
    return "".join(
        ",".join(map(_within, what.split(", "))) + "{" + how + "}" for what, how in rules
    )


_STYLE: Final = (
    _css([*_RESET, ("", _COLOURS["light"]), *_RULES])
    + "@media(prefers-color-scheme:dark){"
    + _css([("", _COLOURS["dark"])])
    + "}"
    + _themed(_LIGHT_THEMES, "light")
    + _themed(_DARK_THEMES, "dark")
    + "@container(max-width:600px){"
    + _css(_NARROW_RULES)
    + "}"
)


class _Html(str):
    """A piece of HTML; any other text is put into one only with its markup made harmless."""

    __slots__ = ()


def _tag(name: str, *content: str, **attributes: str | None) -> _Html:
    """An element. Attributes that end with an underscore lose it; `None` leaves one out."""
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return _Html(f"<{name}{shown}>{_join(content)}</{name}>")


def _join(content: Iterable[str]) -> _Html:
    return _Html("".join(piece if isinstance(piece, _Html) else escape(piece) for piece in content))


def safely(draw: Callable[[], str], title: str) -> str:
    """Draw a card, or, if that fails, a card that says so.

    Args:
        draw: What draws it.
        title: What was to be shown.
    """
    return with_fallback(
        draw,
        lambda why: _frame(_tag("span", plain(title, TITLE_LENGTH), class_="title"), " ", why),
    )


def card(card: Card) -> str:
    """Draw a card.

    Args:
        card: What to show.
    """
    return _frame(
        _tag(
            "div",
            _tag("bdi", card.title, class_="title"),
            _tag("span", plural(card.total.row.calls, "call"), class_="dim"),
            class_="head",
        ),
        _sums(card),
        _bar(card.parts),
        _budgets(card.budgets),
        _lines("By model", card.models),
        _lines("By scope", card.scopes),
        _calls(card),
        _notes(card.notes),
    )


def rows(name: str, lines: Iterable[Line], notes: tuple[tuple[str, str], ...]) -> str:
    """Draw rows as a table.

    Args:
        name: What the rows are split by.
        lines: The rows.
        notes: Signs in them, and their meanings.
    """
    return _frame(_lines(f"By {name}", tuple(lines)), _notes(notes))


def event_card(card: EventCard) -> str:
    """Draw the card of one call.

    Args:
        card: What to show.
    """
    call = card.call
    sums = [
        ("Input tokens", tokens(*call.input), ""),
        ("Output tokens", tokens(*call.output), ""),
        ("Cost", dollars(call.money.usd), "; ".join(call.money.doubts)),
    ]
    about = [_term(name, _tag("bdi", value)) for name, value in card.about]
    return _frame(
        _tag(
            "div",
            _tag("bdi", call.model, class_="title"),
            _tag("span", f"{call.operation}, {call.source}", class_="dim"),
            _status(call.status),
            class_="head",
        ),
        _tag("div", *[_term(name, _big(*figure)) for name, *figure in sums], class_="sums"),
        _bar(card.parts),
        _tag("div", *about, class_="sums"),
        _text("Prompt", card.prompt, call.said if call.prompt else ""),
        _text("Completion", card.completion, card.ending),
        _notes(card.notes),
    )


def _frame(*content: str) -> str:
    return str(_tag("div", _tag("style", _Html(_STYLE)), *content, class_="ltt"))


def _term(name: str, *value: str) -> _Html:
    # The space is for viewers that strip styles.
    return _tag("div", _tag("span", name, class_="name"), " ", _tag("span", *value, class_="value"))


def _big(figure: str, beside: str) -> _Html:
    return _join([_tag("span", figure, class_="big"), " ", _dim(beside)])


def _dim(words: str) -> _Html:
    return _tag("span", words, class_="dim") if words else _Html()


def _sums(card: Card) -> _Html:
    llm, embedding, money = card.llm, card.embedding, card.total.money
    sums = [
        _term(
            "LLM tokens",
            _big(
                tokens(*llm.total),
                f"{tokens(*llm.input)} in, {tokens(*llm.output)} out",
            ),
        )
    ]
    if embedding is not None:
        beside = plural(embedding.row.calls, "text")
        sums.append(_term("Embedding tokens", _big(tokens(*embedding.total), beside)))
    if card.total.row.calls:
        sums.append(_term("Cost", _big(dollars(money.usd), "; ".join(money.doubts))))
    if card.cache_savings_usd:
        sums.append(_term("Saved by caches", _big(dollars(card.cache_savings_usd), "")))
    return _tag("div", *sums, class_="sums")


def _bar(parts: tuple[Part, ...]) -> _Html:
    """One bar of all parts, and their figures below."""
    pieces: list[_Html] = []
    left = 0.0
    for number, part in enumerate(parts):
        width = 1000 * part.share
        if width > 0:
            # A gap between neighbours, unless they are as narrow.
            shown = f"{max(width - 3, min(width, 1)):.2f}"
            place = f"{left:.2f}"
            rect = _tag("rect", x=place, width=shown, height="12", class_=f"c{number}")
            pieces.append(rect)
        left += width
    named = [_part(number, part) for number, part in enumerate(parts)]
    legend = _tag("div", *named, class_="legend")
    if not pieces:
        return legend
    label = ", ".join(f"{part.name} {tokens(*part.figure)}" for part in parts)
    bar = _tag(
        "svg",
        *pieces,
        class_="bar",
        viewBox="0 0 1000 12",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    return _join([bar, legend])


def _part(number: int, part: Part) -> _Html:
    swatch = _tag(
        "svg",
        _tag("rect", width="10", height="10", rx="2", class_=f"c{number}"),
        viewBox="0 0 10 10",
        aria_hidden="true",
    )
    name = _tag("span", f"{part.name} ", class_="dim")
    share = _tag("span", f" {part.share:.0%}", class_="dim") if part.share else _Html()
    return _tag("span", swatch, name, _figure(part.figure), share, " ", class_="part")


def _figure(figure: Figure) -> _Html:
    shown = tokens(*figure)
    if figure.tokens is None:
        return _tag("span", NOT_REPORTED, class_="dim")
    meaning = None if figure.source == "reported" else figure.source
    return _tag("span", shown, title=meaning)


def _table(caption: str, names: Iterable[str], rows: Iterable[_Html]) -> _Html:
    head = _tag("tr", *[_tag("th", name, scope="col") for name in names])
    return _tag("table", _tag("caption", caption), _tag("thead", head), _tag("tbody", *rows))


def _row(first: str, figures: Iterable[tuple[str, str]]) -> _Html:
    # Where there's no value, none is named.
    cells = [_tag("td", value, data_l=name if value else None) for name, value in figures]
    return _tag("tr", _tag("td", first), *cells)


def _line(line: Line) -> _Html:
    return _row(
        _tag("bdi", line.label),
        (
            ("Calls", f"{line.row.calls:,}"),
            ("Input", _figure(line.input)),
            ("Output", _figure(line.output)),
            ("Total", _figure(line.total)),
            ("Cost", amount(line.money)),
        ),
    )


def _lines(caption: str, lines: tuple[Line, ...]) -> _Html:
    if not lines:
        return _Html()
    names = ("", "Calls", "Input", "Output", "Total", "Cost")
    return _table(caption, names, map(_line, lines))


def _calls(card: Card) -> _Html:
    if not card.recent:
        return _Html()
    rows = [_call(call) for call in card.recent]
    if card.earlier is not None:
        earlier = card.earlier
        rows.append(
            _row(
                earlier.label,
                (
                    ("Input", _figure(earlier.input)),
                    ("Output", _figure(earlier.output)),
                    ("Cost", amount(earlier.money)),
                ),
            )
        )
    names = ("", "Input", "Output", "Cost")
    return _table("Last calls", names, rows)


def _call(call: Call) -> _Html:
    return _row(
        _asked(call),
        (
            ("Input", _figure(call.input)),
            ("Output", _figure(call.output)),
            ("Cost", amount(call.money)),
        ),
    )


def _asked(call: Call) -> _Html:
    """What was asked, of which model, when and by whom, and how it ended, if unusually."""
    said = _tag("bdi", call.said) if call.said else _Html()
    words: list[str] = [call.model, *call.origin, call.source]
    if call.status != COMPLETE:
        words.append(_status(call.status))
    return _join([_folded(said, call.prompt) if call.prompt else said, " ", _origin(words)])


def _origin(words: Iterable[str]) -> _Html:
    """Words in one line, smaller; each is broken only where it must be."""
    shown = [word if isinstance(word, _Html) else _tag("bdi", word) for word in words if word]
    pieces = [piece for word in shown for piece in (_Html(" \u00b7 "), word)][1:]
    return _tag("span", *pieces, class_="origin dim") if pieces else _Html()


def _folded(summary: str, text: str) -> _Html:
    shown = _tag("div", _tag("bdi", text), class_="text")
    return _tag("details", _tag("summary", summary), shown)


def _status(status: str) -> _Html:
    return _tag("span", status, class_=None if status == COMPLETE else "warn")


def _budgets(lines: Iterable[Standing]) -> _Html:
    rows = [
        _row(
            _join([_tag("bdi", line.label), " ", _origin([line.until])]),
            (
                ("Spent", line.spent),
                ("Reserved", line.reserved),
                ("Limit", line.limit),
                ("Left", _tag("span", line.left, class_="warn" if line.is_over else None)),
            ),
        )
        for line in lines
    ]
    return _table("Budgets", ("", "Spent", "Reserved", "Limit", "Left"), rows) if rows else _Html()


def _text(name: str, text: str, excerpt: str) -> _Html:
    """A text, folded away under an excerpt where there is one."""
    if not text:
        return _Html()
    if excerpt:
        return _folded(_join([_dim(name), " ", _tag("bdi", excerpt)]), text)
    return _join([_tag("div", name, class_="dim"), _tag("div", _tag("bdi", text), class_="text")])


def _notes(notes: tuple[tuple[str, str], ...]) -> _Html:
    lines = [_tag("div", _tag("b", mark), f" {meaning}") for mark, meaning in notes]
    return _tag("div", *lines, class_="notes") if lines else _Html()
