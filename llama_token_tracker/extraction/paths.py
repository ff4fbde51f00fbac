"""Paths into providers' bodies: the language in which tables say where something stands.

    path     =  segment, { ".", segment }
    segment  =  key, [ "[", [ field, "=", value ], "]" ]

| path | what it names |
|---|---|
| `usage.input_tokens` | a field of a field |
| `choices[].message.content` | a field of each entry of a list |
| `cacheDetails[ttl=5m].inputTokens` | a field of those entries whose `ttl` is `5m` |
| `input[]` | each entry of a list of texts, or the text that stands in its place |

Lists are looked into where a path says `[]`, and nowhere else; what stands there and is no list
is read as a list of one, for many providers take both. Values are compared without regard to case.
Keys, fields and values hold no `.`, `[`, `]` or `=`.

A path is compiled once: by `parse` alone, for `values_at`; or several of them together by
`tree_of`, for a `Reading`, which takes in all counts of a usage in one pass, those included that
no path leads to.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, TypeAlias, TypeVar, cast

from llama_token_tracker.errors import WireFormatError
from llama_token_tracker.extraction.fields import MAX_TOKENS, Fields, as_fields, to_count

Counts: TypeAlias = dict[str, int]
"""Counts as they stand on the wire: path to tokens."""

_LISTS: Final = (list, tuple)

_SEGMENT: Final = re.compile(
    r"(?P<key>[^.\[\]=]+)(?P<list>\[(?:(?P<field>[^.\[\]=]+)=(?P<value>[^.\[\]=]+))?\])?"
)


class Segment(NamedTuple):
    """One step of a path.

    Attributes:
        key: The field to look at.
        is_list: Whether it holds a list, and the path goes on in its entries.
        field: The field by which entries are chosen; empty if all are.
        value: What that must hold, in lower case.
    """

    key: str
    is_list: bool = False
    field: str = ""
    value: str = ""


Path: TypeAlias = tuple[Segment, ...]
"""A compiled path."""


def parse(path: str) -> Path:
    """Compile a path.

    Raises:
        WireFormatError: It isn't written in the language above.
    """
    segments: list[Segment] = []
    for part in path.split("."):
        found = _SEGMENT.fullmatch(part)
        if found is None:
            where = f"{part!r} in it" if part else "an empty segment in it"
            msg = (
                f"the path {path!r} can't be read, for {where} is neither `key`, `key[]` nor "
                "`key[field=value]`; join such segments by dots."
            )
            raise WireFormatError(msg)
        value = (found["value"] or "").lower()
        segments.append(Segment(found["key"], bool(found["list"]), found["field"] or "", value))
    return tuple(segments)


def values_at(body: object, path: Path) -> Iterator[object]:
    """Yield what stands at a path, in the order of the lists on the way; nulls are left out."""
    if not path:
        if body is not None:
            yield body
        return
    fields = as_fields(body)
    if fields is None:
        return
    segment, rest = path[0], path[1:]
    value = fields.get(segment.key)
    if segment.is_list:
        for entry in chosen(value, segment):
            yield from values_at(entry, rest)
    else:
        yield from values_at(value, rest)


def chosen(value: object, segment: Segment) -> Iterator[object]:
    """Yield the entries of a list in which a path goes on."""
    entries = () if value is None else _entries(value)
    return iter(entries) if not segment.field else filter(partial(_is_chosen, segment), entries)


def texts_at(body: object, path: Path) -> Iterator[str]:
    """Yield the texts that stand at a path."""
    return (value for value in values_at(body, path) if isinstance(value, str))


def _entries(value: object) -> Iterable[object]:
    """The entries of a list; no list within a list, for that is nobody's format."""
    if isinstance(value, (list, tuple)):
        entries = cast("Sequence[object]", value)
        return [entry for entry in entries if not issubclass(type(entry), _LISTS)]
    return (value,)


def _is_chosen(segment: Segment, entry: object) -> bool:
    fields = as_fields(entry)
    # An SDK's enumerations are strings, too.
    told = None if fields is None else fields.get(segment.field)
    return isinstance(told, str) and told.lower() == segment.value


# --- many paths in one pass ----------------------------------------------------------------


@dataclass(slots=True)
class Step:
    """What is done with the value of one key: it's a count, an object, or a list.

    Attributes:
        path: The path that ends here, if its value is a count.
        inside: What is read of its value, if that's an object.
        entries: What is read of the entries of its value, if that's a list: by the field by which
            they are chosen, and by what that must hold; both are empty for all entries.
    """

    path: str | None = None
    inside: "Tree" = field(default_factory=lambda: Tree())
    entries: "dict[str, dict[str, Step]]" = field(default_factory=dict[str, "dict[str, Step]"])

    def paths(self) -> list[str]:
        """All paths that lead through here."""
        inner = [path for step in self._below() for path in step.paths()]
        return inner if self.path is None else [self.path, *inner]

    def is_clear(self) -> bool:
        """Whether here, and everywhere below, a value is read in one way only."""
        ways = (self.path is not None) + bool(self.inside) + bool(self.entries)
        return ways == 1 and all(step.is_clear() for step in self._below())

    def _below(self) -> "Iterable[Step]":
        entries = (step for by_value in self.entries.values() for step in by_value.values())
        return (*self.inside.values(), *entries)


class Layout(NamedTuple):
    """What a tree says of the objects that have the same keys: providers' are much alike.

    Attributes:
        counts: The keys of counts, and the paths that end there.
        inside: The keys of objects, and what is read of these.
        lists: The keys of lists, likewise.
        others: The keys that no path leads to.
        suspects: Those of them whose own names speak of tokens.
    """

    counts: tuple[tuple[str, str], ...]
    inside: tuple[tuple[str, Step], ...]
    lists: tuple[tuple[str, Step], ...]
    others: tuple[str, ...]
    suspects: tuple[str, ...]


class Tree(dict[str, Step]):
    """Several paths that were compiled together: by their outermost keys, what is done with each.

    Attributes:
        layouts: By the keys of an object, how it's read, as far as any came.
    """

    __slots__ = ("layouts",)

    def __init__(self) -> None:
        super().__init__()
        self.layouts: dict[tuple[str, ...], Layout] = {}

    def layout(self, keys: tuple[str, ...]) -> Layout:
        """How objects are read that have these keys."""
        known = self.layouts.get(keys)
        if known is not None:
            return known
        return remember(self.layouts, keys, self._layout(keys), most=MOST_WITHIN)

    def _layout(self, keys: tuple[str, ...]) -> Layout:
        known = [(key, self[key]) for key in keys if key in self]
        others = tuple([key for key in keys if key not in self])
        return Layout(
            tuple([(key, step.path) for key, step in known if step.path is not None]),
            tuple([(key, step) for key, step in known if step.inside]),
            tuple([(key, step) for key, step in known if step.entries]),
            others,
            tuple([key for key in others if _speaks_of_tokens(key, key)]),
        )


_REMEMBERED: Final = 512
_LONGEST: Final = 4_096
"""So many characters all keys of a form have together that is remembered."""

_Plan = TypeVar("_Plan")


def remember(
    plans: dict[tuple[str, ...], _Plan],
    keys: tuple[str, ...],
    plan: _Plan,
    *,
    most: int = _REMEMBERED,
) -> _Plan:
    """Keep a plan for the next response of the same form; hostile forms fill no memory."""
    if (
        len(plans) < most
        and all(type(key) is str for key in keys)
        and sum(map(len, keys)) <= _LONGEST
    ):
        plans[keys] = plan
    return plan


MOST_WITHIN: Final = 64
"""So many forms are remembered of the objects in one place within a usage, or an answer."""


Steps: TypeAlias = Iterable[tuple[str, Step]]
"""A tree, or those of its keys that are worth a look."""


NOTHING: Final = Tree()
"""The tree of no path."""


def tree_of(paths: Iterable[str]) -> Tree:
    """Compile several paths together.

    Raises:
        WireFormatError: One can't be read, or two ask for different things in one place.
    """
    root = Step()
    for path in paths:
        step = root
        for segment in parse(path):
            step = step.inside.setdefault(segment.key, Step())
            if segment.is_list:
                by_value = step.entries.setdefault(segment.field, {})
                step = by_value.setdefault(segment.value, Step())
        step.path = path
    for step in root.inside.values():
        if not step.is_clear():
            msg = (
                f"the paths {', '.join(step.paths())} can't be read together, for one key would "
                "have to be a count, an object or a list at once; write it in one way in all."
            )
            raise WireFormatError(msg)
    return root.inside


class Reading:
    """The counts of one usage.

    Args:
        shape: The table's name, for the log.

    Attributes:
        counts: Those that paths lead to, by these.
        unknown: Counts of tokens that none does, as they stand, by paths of their own.
    """

    __slots__ = ("_shape", "counts", "unknown")

    def __init__(self, shape: str) -> None:
        self._shape = shape
        self.counts: Counts = {}
        self.unknown: dict[str, object] = {}

    def take(self, layout: Layout, body: Fields, most_deep: int, prefix: str = "") -> None:
        """Take in the counts that a body holds.

        Args:
            layout: What its keys say.
            body: What is read.
            most_deep: How far objects in it are looked into for what is unknown.
            prefix: How the paths of that begin.
        """
        counts = self.counts
        for key, path in layout.counts:
            value = body.get(key)
            if type(value) is int and 0 <= value <= MAX_TOKENS:
                counts[path] = value  # as `to_count` would say: most are
            elif value is not None:
                count = to_count(value, f"{self._shape}: {path}")
                if count is not None:
                    counts[path] = count
        for key, step in layout.inside:
            value = body.get(key)
            fields = as_fields(value)
            if type(fields) is dict and most_deep:
                inner = step.inside.layout(tuple(fields))
                self.take(inner, fields, most_deep - 1, f"{prefix}{key}.")
            else:
                self._take_part((key, step), value, most_deep, prefix)
        if layout.lists or layout.others:
            self._take_rest(layout, body, most_deep, prefix)

    def _take_rest(self, layout: Layout, body: Fields, most_deep: int, prefix: str) -> None:
        """The same of its lists, and of what no path leads to."""
        for way in layout.lists:
            self._take_part(way, body.get(way[0]), most_deep, prefix)
        for key in layout.others if most_deep or prefix else layout.suspects:
            value = body.get(key)
            if value:
                _find_unknown({key: value}, NOTHING, self.unknown, most_deep, prefix)

    def _take_part(self, way: tuple[str, Step], value: object, most_deep: int, prefix: str) -> None:
        """The same of one value that is a list, or another thing than its path says."""
        if value is not None:
            part = {way[0]: value}
            _collect((way,), part, self._shape, self.counts)
            _find_unknown(part, dict([way]), self.unknown, most_deep, prefix)


def _collect(steps: Steps, body: Fields, shape: str, found: Counts) -> None:
    """Put the counts that a body holds into `found`, by their paths."""
    for key, step in steps:
        value = body.get(key)
        if value is None:
            continue
        if step.path is not None:
            if (count := to_count(value, f"{shape}: {step.path}")) is not None:
                found[step.path] = count
        elif step.entries:
            _collect_entries(step, value, shape, found)
        elif (inner := as_fields(value)) is not None:
            _collect(step.inside.items(), inner, shape, found)


def _collect_entries(step: Step, value: object, shape: str, found: Counts) -> None:
    entries = cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else (value,)
    for entry in entries:
        fields = as_fields(entry)
        for name, by_value in step.entries.items():
            told = "" if not name else None if fields is None else fields.get(name)
            inner = by_value.get(told.lower()) if isinstance(told, str) else None
            if inner is None or isinstance(entry, (list, tuple)):
                continue
            part: Counts = {}
            if inner.path is not None:
                # As if the entry stood in a field of its own.
                _collect((("", inner),), {"": entry}, shape, part)
            elif fields is not None:
                _collect(inner.inside.items(), fields, shape, part)
            # A list may name one kind more than once: its entries add up.
            for path, count in part.items():
                found[path] = found.get(path, 0) + count


# --- what no path leads to -----------------------------------------------------------------

_TOKENS: Final = re.compile("token", re.IGNORECASE)
_NO_COUNT: Final = re.compile(
    "(^|_)per(_|$)|time|latency|limit|remaining|max|price|cost", re.IGNORECASE
)


def _speaks_of_tokens(path: str, key: str) -> bool:
    return bool(_TOKENS.search(path)) and not _NO_COUNT.search(key)


def _find_unknown(
    fields: Mapping[str, object],
    tree: Mapping[str, Step],
    found: dict[str, object],
    most_deep: int,
    prefix: str,
) -> None:
    """Put the counts of tokens that no path of a tree leads to into `found`, by their paths.

    Args:
        fields: What is looked through.
        tree: The paths that are known.
        found: Where they are put.
        most_deep: How far objects within it are looked into.
        prefix: How the paths begin.
    """
    for key, value in fields.items():
        step = tree.get(key)
        if not value or (step is not None and step.path is not None):
            continue
        path = prefix + key
        if step is None and _is_count(value) and _speaks_of_tokens(path, key):
            found[path] = value
        elif most_deep:
            for entry, known, name in _inside(value, step):
                _find_unknown(entry, known, found, most_deep - 1, f"{path}{name}.")


def _is_count(value: object) -> bool:
    if isinstance(value, str):
        return value.isdecimal() and int(value) > 0
    return isinstance(value, (int, float)) and value is not True and value > 0


def _inside(
    value: object, step: Step | None
) -> Iterator[tuple[Mapping[str, object], Mapping[str, Step], str]]:
    """The objects in a value, what is known of each, and how a path names it."""
    if not isinstance(value, (list, tuple)):
        fields = as_fields(value)
        if type(fields) is dict:
            yield cast("dict[str, object]", fields), NOTHING if step is None else step.inside, ""
        return
    for entry in _entries(cast("Sequence[object]", value)):
        found = as_fields(entry)
        if type(found) is not dict:
            continue
        fields, known = cast("dict[str, object]", found), dict[str, Step]()
        for name, by_value in () if step is None else step.entries.items():
            # An SDK's enumerations are texts, but print otherwise.
            told = fields.get(name)
            chosen = "" if not name else told.lower() if isinstance(told, str) else None
            inner = None if chosen is None else by_value.get(chosen)
            known |= {name: Step("")} | ({} if inner is None else inner.inside)
        kind = fields.get("type")
        yield fields, known, f"[type={kind}]" if isinstance(kind, str) else "[]"
