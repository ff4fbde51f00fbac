"""What a table of a wire shape is made of, and how one is read.

A table says for each key on the wire which buckets it adds to. Inclusive buckets follow
from that alone: where a provider leaves cached tokens out of its input figure, the cache
keys add to `input_tokens` as well as to their own bucket.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from llama_token_tracker._log_once import notice
from llama_token_tracker.usage import WHOLE_SUMS, WHOLES, Usage, contradiction

Counts: TypeAlias = dict[str, int]
"""Counts as they stand on the wire: dotted path to tokens."""


class Fields(Protocol):
    """What a body is read through: a `dict`, or anything that answers like one."""

    def get(self, name: str, /) -> object:
        """The value of a field, or `None` where there is none."""


MAX_TOKENS: Final = 10**12
"""More than this is no count of tokens: no provider's day of traffic comes close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireShape:
    """One provider's way to write a usage down.

    Attributes:
        name: The provider's API, dotted.
        source: Where the provider documents it.
        checked: The day on which the table was last compared with that page.
        marks: Keys of which any one tells this shape from the others.
        adds: A dotted path on the wire, and the buckets that its count adds to. A segment
            `key[name=value]` picks the entries of a list whose `name` is `value`, `key[]` all.
        same: Groups of paths that name one count: the first that is reported is taken.
        total: The path of the provider's own sum, if it reports one.
        excluded: Buckets that some speakers of this shape leave out of the figure of their
            whole. Their sum gives them away, as far as one is reported; so does a part that
            exceeds its whole.
        sure_in_stream_with: Keys of which one must have come before the input figure of an
            unfinished stream can be trusted to hold all input.
    """

    name: str
    source: str
    checked: date
    marks: tuple[str, ...]
    adds: Mapping[str, tuple[str, ...]]
    same: tuple[tuple[str, ...], ...] = ()
    total: str | None = None
    excluded: tuple[str, ...] = ()
    sure_in_stream_with: tuple[str, ...] = ()
    _reader: "dict[str, _Step]" = field(init=False, repr=False, compare=False)
    _sums: "dict[tuple[str, ...], _Sums]" = field(
        init=False, repr=False, compare=False, default_factory=dict[tuple[str, ...], "_Sums"]
    )

    def __post_init__(self) -> None:
        """Turn the paths into a tree once, so that reading walks no string."""
        paths = [*self.adds, *([self.total] if self.total else [])]
        object.__setattr__(self, "_reader", _tree(paths))

    def outer_keys(self) -> Iterable[str]:
        """The outermost keys of all paths."""
        return self._reader.keys()

    def plan(self, keys: Iterable[str]) -> "Plan":
        """Prepare to read bodies that have these keys; no others need be looked for."""
        return Plan(self, tuple((key, self._reader[key]) for key in keys if key in self._reader))

    def usage(self, counts: Counts) -> Usage | None:
        """Add `counts` up into inclusive buckets, or `None` if none of them is ours."""
        paths = tuple(counts)
        sums = self._sums.get(paths)
        if sums is None:
            sums = remember(self._sums, paths, self.sums_of(paths))
        buckets: dict[str, int] = {}
        for path, names in sums:
            count = counts[path]
            for name in names:
                buckets[name] = buckets[name] + count if name in buckets else count
        if not buckets.keys() <= WHOLE_SUMS:
            if self.excluded:
                self._include(buckets, counts)
            if contradiction(buckets) is not None:
                buckets = _without_contradiction(buckets, self.name)
        return Usage.of(buckets) if buckets else None

    def sums_of(self, paths: tuple[str, ...]) -> "_Sums":
        """Which counts add to which buckets, a count of two names only once."""
        doubles = {
            path for group in self.same for path in [path for path in group if path in paths][1:]
        }
        return tuple(
            (path, self.adds[path]) for path in paths if path in self.adds and path not in doubles
        )

    def _include(self, buckets: dict[str, int], counts: Counts) -> None:
        """Add the parts that this speaker leaves out of its wholes to them."""
        known = buckets.get("input_tokens", 0) + buckets.get("output_tokens", 0)
        gap = counts.get(self.total or "", 0) - known
        if gap == 0:
            return
        outside: dict[str, int] = {}
        for part in self.excluded:
            if count := buckets.get(part):
                outside[WHOLES[part]] = outside.get(WHOLES[part], 0) + count
        everything = sum(outside.values())
        for whole, count in outside.items():
            if whole in buckets and (gap in (count, everything) or count > buckets[whole]):
                buckets[whole] += count


_Sums: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]

_REMEMBERED: Final = 512
_Key = TypeVar("_Key")
_Plan = TypeVar("_Plan")


def remember(plans: dict[_Key, _Plan], key: _Key, plan: _Plan) -> _Plan:
    """Keep a plan for the next response of the same form; hostile forms fill no memory."""
    if len(plans) < _REMEMBERED:
        plans[key] = plan
    return plan


@dataclass(slots=True)
class _Step:
    """What to do with the value of one key: take it as a count, or look inside."""

    path: str | None = None
    inside: "dict[str, _Step]" = field(default_factory=dict[str, "_Step"])
    entries: "list[tuple[str, str, dict[str, _Step]]]" = field(
        default_factory=list[tuple[str, str, dict[str, "_Step"]]]
    )

    def paths(self) -> list[str]:
        """All paths that reading this key can find."""
        nodes = [self.inside, *(node for _, _, node in self.entries)]
        inner = [path for node in nodes for step in node.values() for path in step.paths()]
        return inner if self.path is None else [self.path]


_Node: TypeAlias = dict[str, _Step]
Steps: TypeAlias = tuple[tuple[str, _Step], ...]


def _tree(paths: Iterable[str]) -> _Node:
    root: _Node = {}
    for path in paths:
        node = root
        *parents, leaf = path.split(".")
        for segment in parents:
            key, _, condition = segment.partition("[")
            step = node.setdefault(key, _Step())
            if condition:
                # `key[]` asks nothing of an entry: no field, no value.
                name, _, value = condition.rstrip("]").partition("=")
                node = _entry(step, name, value)
            else:
                node = step.inside
        node.setdefault(leaf, _Step()).path = path
    return root


def _entry(step: _Step, name: str, value: str) -> _Node:
    for known_name, known_value, node in step.entries:
        if (known_name, known_value) == (name, value):
            return node
    new: _Node = {}
    step.entries.append((name, value, new))
    return new


def _collect(steps: Iterable[tuple[str, _Step]], body: Fields, shape: str, found: Counts) -> None:
    """Put the counts that `body` holds into `found`, by their path."""
    for key, step in steps:
        value = body.get(key)
        if value is None:
            continue
        if step.path is not None:
            if type(value) is int and 0 <= value <= MAX_TOKENS:
                found[step.path] = value
            elif (count := to_count(value, f"{shape}: {step.path}")) is not None:
                found[step.path] = count
        elif step.entries:
            _collect_entries(step, value, shape, found)
        elif (inner := as_fields(value)) is not None:
            _collect(step.inside.items(), inner, shape, found)


def _collect_entries(step: _Step, value: object, shape: str, found: Counts) -> None:
    items = cast("list[object]", value) if isinstance(value, list | tuple) else ()
    for item in items:
        entry = as_fields(item)
        if entry is None:
            continue
        for name, wanted, node in step.entries:
            if not name or _said(entry.get(name)) == wanted:
                part: Counts = {}
                _collect(node.items(), entry, shape, part)
                # A list may name one kind more than once: its entries add up.
                for path, count in part.items():
                    found[path] = found.get(path, 0) + count


def _said(value: object) -> str:
    """A field of an entry in lower case, be it a string or an SDK's string enumeration."""
    return value.lower() if isinstance(value, str) else ""


def to_count(value: object, place: str) -> int | None:
    """Read one count: an integer, or a string or float that stands for one.

    Args:
        value: What the provider sent.
        place: Shape and path, for the log.

    Returns:
        Tokens, or `None` for what is no count: negative, fractional, absurdly large.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except Exception:  # noqa: BLE001 - a foreign kind of number may raise anything
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= MAX_TOKENS or number != int(number):
        notice(f"not a count of tokens at {place}", value, "it is left out")
        return None
    return int(number)


def as_fields(value: object) -> Fields | None:
    """See a JSON object, a pydantic model or an SDK's object as named fields.

    Returns:
        Something whose `get` never raises, or `None` for what has no fields at all.
    """
    kind = type(value)
    if kind is dict:
        return cast("dict[str, object]", value)
    if kind not in _models:
        # Of its class, since an object may raise when it's asked for `__class__`.
        if value is None or issubclass(kind, _FIELDLESS):
            return None
        if not hasattr(kind, "__pydantic_fields__"):
            return _fields_of(value)
        if len(_models) < _REMEMBERED:
            _models.add(kind)
    model: Any = value
    extra = model.__pydantic_extra__
    return cast("dict[str, object]", {**model.__dict__, **extra} if extra else model.__dict__)


_models: set[type] = set()


def _fields_of(value: object) -> Fields | None:
    if not issubclass(type(value), Mapping):
        return _Attributes(value)
    try:
        return dict(cast("Mapping[str, object]", value))
    except Exception as error:  # noqa: BLE001 - a foreign mapping may raise anything when read
        kind = f"unreadable {type(value).__name__}"
        notice(kind, error, "its fields are left out")
        return None


_FIELDLESS: Final = (str, bytes, int, float, list, tuple, set, type)


class _Attributes:
    """The attributes of an object, one by one, whatever the object does when asked."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def get(self, name: str, /) -> object:
        try:
            return getattr(self._value, name, None)
        except Exception as error:  # noqa: BLE001 - a foreign property may raise anything
            notice(f"unreadable attribute of {type(self._value).__name__}", error, "it is left out")
            return None


class Plan:
    """How to read the usages of one shape that have the same keys.

    Responses of one provider look alike, so the plan of the first serves all others.

    Attributes:
        shape: The table to read by.
        most: How many buckets such a usage can hold at most.
    """

    __slots__ = ("_steps", "most", "shape")

    def __init__(self, shape: WireShape, steps: Steps) -> None:
        self.shape = shape
        self._steps = steps
        paths = [path for _, step in steps for path in step.paths()]
        self.most = len({name for path in paths for name in shape.adds.get(path, ())})

    def counts(self, usage: Fields) -> Counts:
        """Read tokens by path; what is absent, null or no count is left out."""
        found: Counts = {}
        _collect(self._steps, usage, self.shape.name, found)
        return found

    def usage(self, usage: Fields) -> Usage | None:
        """Read a usage into inclusive buckets, or `None` if it holds no count."""
        return self.shape.usage(self.counts(usage))


def _without_contradiction(buckets: dict[str, int], shape: str) -> dict[str, int]:
    """Drop the parts that cannot be true of their wholes; the bill is in the wholes."""
    problem = contradiction(buckets)
    notice(f"contradiction in {shape}", problem, "the parts of the sums are left out")
    return {name: count for name, count in buckets.items() if name not in WHOLES}
