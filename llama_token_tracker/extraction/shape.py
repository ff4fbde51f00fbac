"""What a table of a wire shape is made of, and how one is read.

A table says for each key on the wire which buckets it adds to. Inclusive buckets follow
from that alone: where a provider leaves cached tokens out of its input figure, the cache
keys add to `input_tokens` as well as to their own bucket.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final, NamedTuple, cast

from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import WireFormatError
from llama_token_tracker.extraction.fields import Fields
from llama_token_tracker.extraction.paths import (
    Counts,
    Reading,
    Tree,
    remember,
    tree_of,
)
from llama_token_tracker.usage import (
    BUCKETS,
    WHOLE_SUMS,
    WHOLES,
    WHOLES_OF_CALL,
    Usage,
    contradiction,
    root,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireShape:
    """One provider's way to write a usage down.

    Paths are written as `llama_token_tracker.extraction.paths` says: `details.cached`,
    `parts[].count`, `details[ttl=5m].tokens`.

    Attributes:
        name: The provider's API, dotted.
        source: Where the provider documents it.
        checked: The day on which the table was last compared with that page.
        marks: Keys of which any one tells this shape from the others: outermost keys of paths.
        adds: A path on the wire, and the buckets that its count adds to; none for what is known
            to be part of another count.
        same: Groups of paths that name one count: the first that is reported is taken.
        total: The path of the provider's own sum, if it reports one. It gives a missing side.
        total_leaves_out: Buckets that this sum may leave out.
        excluded: Buckets that some speakers of this shape leave out of the figure of their
            whole. Their sum gives them away, as far as one is reported; so does a part that
            exceeds its whole.
        sure_in_stream_with: Paths of which one must have come before the input figure of an
            unfinished stream can be trusted to hold all input.

    Raises:
        WireFormatError: A usage can't be read by it: a path that can't be parsed, a bucket that
            doesn't exist, a mark that no path begins with.
    """

    name: str
    source: str
    checked: date
    marks: tuple[str, ...]
    adds: Mapping[str, tuple[str, ...]]
    same: tuple[tuple[str, ...], ...] = ()
    total: str | None = None
    total_leaves_out: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    sure_in_stream_with: tuple[str, ...] = ()
    tree: Tree = field(init=False, repr=False, compare=False)
    _sums: "dict[tuple[str, ...], _Sums]" = field(
        init=False, repr=False, compare=False, default_factory=dict[tuple[str, ...], "_Sums"]
    )

    def __post_init__(self) -> None:
        """Compile the paths once, so that reading walks no string."""
        problem = next(_wrong_types(self), None)
        if problem is None:
            paths = [*self.adds, *([self.total] if self.total else [])]
            object.__setattr__(self, "tree", tree_of(paths))
            problem = next(_wrong_names(self), None)
        if problem is not None:
            msg = f"the table {self.name!r} can't be read by: {problem}"
            raise WireFormatError(msg)

    def outer_keys(self) -> Iterable[str]:
        """The outermost keys of all paths."""
        return self.tree.keys()

    def plan(self, keys: tuple[str, ...]) -> "Plan":
        """Prepare to read bodies that have these keys; no others need be looked for."""
        return Plan(self, keys)

    def read(self, counts: Counts) -> "tuple[Usage | None, tuple[str, ...]]":
        """Add `counts` up into inclusive buckets.

        Returns:
            The buckets, or `None` if none of them is ours; and the names of those figures that
            another one contradicts.
        """
        paths = tuple(counts)
        sums = self._sums.get(paths)
        if sums is None:
            sums = remember(self._sums, paths, self._sums_of(paths))
        buckets: dict[str, int] = {}
        for path, name in sums.adds:
            buckets[name] = buckets.get(name, 0) + counts[path]
        doubts = self._doubts(counts, sums, buckets)
        return Usage.of(buckets) if buckets else None, doubts

    def _doubts(self, counts: Counts, sums: "_Sums", buckets: dict[str, int]) -> tuple[str, ...]:
        """Complete the buckets by what the figures say of each other; name what they contradict."""
        doubts: tuple[str, ...] = ()
        total = 0 if self.total is None else counts.get(self.total, 0)
        if total and not _add_up(buckets, total):
            doubts = self._compare(buckets, total)
        if buckets.keys() <= WHOLE_SUMS:
            return doubts
        if self.excluded and (doubts or self.total not in counts):
            doubts = self._include(buckets, total)
        if not total:
            # Parts that add up to a whole whose own figure is missing are only parts.
            doubts += tuple([name for name in WHOLES_OF_CALL if name in buckets.keys() - sums.own])
        if contradiction(buckets) is not None:
            doubts += _without_contradiction(buckets, self.name)
        return doubts

    def _sums_of(self, paths: tuple[str, ...]) -> "_Sums":
        """Which counts add to which buckets, a count of two names only once."""
        doubles = {
            path for group in self.same for path in [path for path in group if path in paths][1:]
        }
        adds = [
            (path, self.adds[path]) for path in paths if path in self.adds and path not in doubles
        ]
        return _Sums(
            tuple([(path, name) for path, names in adds for name in names]),
            frozenset(names[0] for _, names in adds if len(names) == 1),
        )

    def _compare(self, buckets: dict[str, int], total: int) -> tuple[str, ...]:
        """Take a missing side from the total; name the total if its sides contradict it."""
        sides = [name for name in WHOLES_OF_CALL if buckets.get(name)]
        known = sum(buckets[name] for name in sides)
        parts = [buckets.get(part) for part in self.excluded if WHOLES[part] in buckets]
        if len(sides) == 1 and total > known and total - known not in parts:
            other = next(name for name in WHOLES_OF_CALL if name not in sides)
            buckets[other] = total - known
            return ()
        within = sum(buckets.get(part, 0) for part in self.total_leaves_out)
        is_alone = buckets.keys().isdisjoint(WHOLES_OF_CALL)
        return () if is_alone or total in (known, known - within) else (self.total or "",)

    def _outside(self, buckets: Mapping[str, int]) -> dict[str, int]:
        """By whole, the sum of its parts that this speaker leaves out of it."""
        outside: dict[str, int] = {}
        for part in self.excluded:
            whole = WHOLES[part]
            if buckets.get(part) and whole in buckets:
                outside[whole] = outside.get(whole, 0) + buckets[part]
        return outside

    def _include(self, buckets: dict[str, int], total: int) -> tuple[str, ...]:
        """Add the parts that this speaker leaves out of its wholes to them.

        Returns:
            What is still in doubt.
        """
        gap = total - sum(buckets.get(name, 0) for name in WHOLES_OF_CALL)
        outside = self._outside(buckets)
        fits = [whole for whole, count in outside.items() if count == gap]
        # Where each of two fits, it's the output's: those who leave parts out say so of that.
        taken = list(outside) if sum(outside.values()) == gap else fits[-1:]
        for whole in taken:
            buckets[whole] += outside[whole]
        if taken:
            # Nobody is known to leave out both.
            return () if len(taken) == len(fits) == 1 else (self.total or "",)
        beyond = [whole for whole, count in outside.items() if count > buckets[whole]]
        for whole in beyond:
            buckets[whole] += outside[whole]
        return tuple(beyond) if total <= 0 else (self.total or "", *beyond)


def _add_up(buckets: Mapping[str, int], total: int) -> bool:
    """Whether both sides of a call are known, and are its total: most are."""
    sent, came = buckets.get("input_tokens"), buckets.get("output_tokens")
    return sent is not None and came is not None and 0 < sent < total == sent + came


def _wrong_types(table: WireShape) -> Iterator[str]:
    """What isn't of the kind that it should be; a lone text in brackets is the likeliest."""
    if not (isinstance(table.name, str) and table.name):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' own
        yield "its name is empty or no text; name the provider's API, as 'acme.chat'."
    if not isinstance(table.adds, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        yield f"`adds` is a {type(table.adds).__name__}; give a dict of paths and buckets."
        return
    lists: dict[str, object] = {f"adds[{path!r}]": names for path, names in table.adds.items()}
    lists |= {name: getattr(table, name) for name in ("marks", "excluded", "sure_in_stream_with")}
    lists |= {f"same[{position}]": group for position, group in enumerate(table.same)}
    for place, names in lists.items():
        if not _are_texts(names):
            yield f"{place} is {names!r:.60}; give a tuple of texts, as ('input_tokens',)."
    if not all(isinstance(path, str) for path in table.adds):  # pyright: ignore[reportUnnecessaryIsInstance]
        yield "a key of `adds` is no text; give paths."


def _are_texts(names: object) -> bool:
    if not isinstance(names, tuple):
        return False
    return all(isinstance(name, str) for name in cast("tuple[object, ...]", names))


def _wrong_names(table: WireShape) -> Iterator[str]:
    """Names that name nothing: of buckets, of paths, of keys."""
    for path, names in table.adds.items():
        for name in names:
            if name not in BUCKETS:
                known = ", ".join(BUCKETS)
                yield f"{path!r} adds to {name!r}, which is no bucket; the buckets are {known}."
    for part in table.excluded:
        if part not in WHOLES:
            yield f"`excluded` names {part!r}, which is part of nothing; give {', '.join(WHOLES)}."
    for path in (*(path for group in table.same for path in group), *table.sure_in_stream_with):
        if path not in table.adds:
            yield f"{path!r} is no path of `adds`; add it there, or leave it out."
    yield from _wrong_marks(table)


def _wrong_marks(table: WireShape) -> Iterator[str]:
    if not table.marks:
        yield "it has no marks; name keys that tell such a usage from others."
    for mark in table.marks:
        if mark not in table.outer_keys():
            yield (
                f"no path begins with the mark {mark!r}; a mark is the outermost key of one, "
                f"so give some of {', '.join(table.outer_keys())}."
            )


class _Sums(NamedTuple):
    """What counts add up to that stand at the same paths.

    Attributes:
        adds: Each path, and a bucket that its count adds to.
        own: The buckets that have a figure of their own.
    """

    adds: tuple[tuple[str, str], ...]
    own: frozenset[str]


class Plan:
    """How to read the usages of one shape that have the same keys.

    Responses of one provider look alike, so the plan of the first serves all others.

    Attributes:
        shape: The table to read by.
        most: How many buckets such a usage can hold at most.
        is_plain: Whether each of its keys is that of a count, so that all in it is known.
    """

    __slots__ = ("_layout", "is_plain", "most", "shape")

    def __init__(self, shape: WireShape, keys: tuple[str, ...]) -> None:
        self.shape = shape
        self._layout = layout = shape.tree.layout(keys)
        self.is_plain = not (layout.inside or layout.lists or layout.others)
        paths = [path for key in keys if key in shape.tree for path in shape.tree[key].paths()]
        self.most = len({name for path in paths for name in shape.adds.get(path, ())})

    def read(self, usage: Fields, *, is_flat: bool) -> tuple[Counts, Collection[str]]:
        """Read tokens by path; what is absent, null or no count is left out.

        Args:
            usage: The usage.
            is_flat: Whether it's an answer itself, so that what lies in it may be anything.

        Returns:
            The counts, and the paths of counts of tokens that the table doesn't know.
        """
        name = self.shape.name
        reading = Reading(name)
        reading.take(self._layout, usage, 0 if is_flat else _DEEPEST)
        for path, count in reading.unknown.items():
            notice("unknown tokens in {}", count, _UNSURE, f"{name}: {path}")
        return reading.counts, reading.unknown


_DEEPEST: Final = 4
_UNSURE: Final = "the call's figures are marked as estimated, and its cost as not whole"


def _without_contradiction(buckets: dict[str, int], shape: str) -> tuple[str, ...]:
    """Drop the parts that can't be true of their whole; the bill is in that.

    Returns:
        The wholes whose parts they were.
    """
    doubts: list[str] = []
    for whole in WHOLES_OF_CALL:
        side = {name: count for name, count in buckets.items() if whole in (name, root(name))}
        problem = contradiction(side)
        if problem is not None:
            notice("contradiction in {}", problem, "the parts of the sum are left out", shape)
            doubts.append(whole)
            for name in side.keys() - {whole}:
                del buckets[name]
    return tuple(doubts)
