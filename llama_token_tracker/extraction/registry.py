"""The tables that usages are read by: those that come with the package, and users' own.

A table is found by its marks. Each key belongs to the table that has read it first, so a table
that is registered at run time is found by those of its marks that no earlier table reads, and
changes nothing about usages that the others know. In a usage that has such a mark it comes before
the tables of the package; of two registered tables, the later.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, cast

from llama_token_tracker._lock import LOADING
from llama_token_tracker.errors import WireFormatError
from llama_token_tracker.extraction.paths import remember
from llama_token_tracker.extraction.request_ids import KEYS as REQUEST_ID_KEYS
from llama_token_tracker.extraction.served import KEYS as SERVED_KEYS
from llama_token_tracker.extraction.shape import Plan, WireShape
from llama_token_tracker.extraction.shapes import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    langchain,
    ollama,
    openai,
    totals,
)

SHAPES: Final[tuple[WireShape, ...]] = (
    # Anthropic's marks are the plainest, so whoever has marks of their own comes first; and
    # LangChain's copies are in others' words, but for their marks.
    *langchain.SHAPES,
    *openai.SHAPES,
    *bedrock.SHAPES,
    *gemini.SHAPES,
    *cohere.SHAPES,
    *ollama.SHAPES,
    *anthropic.SHAPES,
    *totals.SHAPES,
)
"""The tables that come with the package, the one that is preferred first."""

WITHIN: Final[dict[str, tuple[str, ...]]] = {
    "usage": (),
    "token_usage": (),
    "usage_metadata": (),
    "usageMetadata": (),
    "amazon-bedrock-invocationMetrics": (),
    "metadata": ("usage",),
    "data": ("usage",),
    "response": ("usage", "meta", "usage_metadata"),
    "message": ("usage",),
    "delta": ("usage",),
    "meta": (),
    "x_groq": ("usage",),
}
"""Fields that hold a usage, and those inside them that do."""

_KEPT: Final = SERVED_KEYS | REQUEST_ID_KEYS | {"stopReason", "status"}

Keys: TypeAlias = tuple[str, ...]


class Route(NamedTuple):
    """Where bodies with the same keys may hold a usage.

    Attributes:
        speaks: Whether the body itself may be one.
        names: Which of its fields may be, or may hold one.
        only: The only field that may be a usage, "" if there's none at all; `None` if it takes
            more than that to read it.
        served: Which others tell how the call was served, why its answer ended, or the id of its
            request.
        take: What takes those from a body, all at once; `None` if there are none.
    """

    speaks: bool
    names: tuple[str, ...]
    only: str | None
    served: tuple[str, ...] = ()
    take: Callable[[Any], tuple[Any, ...]] | None = None


class Catalogue:
    """The tables as of one moment, and all that was prepared to read by them.

    Nothing of it changes but its caches, so that whoever reads meets one state of affairs; a table
    that is registered makes a new one.

    Args:
        registered: Users' own tables, in the order of their registration.

    Attributes:
        registered: The same.
        ranks: Each mark, and how much the table that has it is preferred: least is most.
        keys: The outermost keys of all tables.
        plans: By all keys of a usage that hold something, how to read it, as far as any came.
        routes: By all keys of a body, where in it usages may stand, as far as any came.
        names_in: By a pydantic class that is no usage itself, which of its fields may be one, or
            hold one, as far as any came.
    """

    __slots__ = ("_by_rank", "keys", "names_in", "plans", "ranks", "registered", "routes")

    def __init__(self, registered: tuple[WireShape, ...] = ()) -> None:
        self.registered = registered
        self.ranks = {
            mark: rank for rank, shape in reversed(list(enumerate(SHAPES))) for mark in shape.marks
        }
        self._by_rank = dict(enumerate(SHAPES))
        known = {key for shape in SHAPES for key in shape.outer_keys()}
        for position, shape in enumerate(registered, start=1):
            self._by_rank[-position] = shape
            self.ranks |= dict.fromkeys(set(shape.marks) - known, -position)
            known.update(shape.outer_keys())
        self.keys = tuple(sorted(known))
        # A response without a body has nothing to look through.
        self.routes: dict[Keys, Route] = {(): Route(False, (), "")}
        self.names_in: dict[type, Keys] = {}
        self.plans: dict[Keys, Plan | None] = {}

    def plan(self, keys: Keys) -> Plan | None:
        """Prepare to read usages that have these keys; `None` for one that no table knows."""
        ranks = [self.ranks[key] for key in keys if key in self.ranks]
        plan = self._by_rank[min(ranks)].plan(keys) if ranks else None
        return remember(self.plans, keys, plan)

    def route(self, keys: Keys) -> Route:
        """Find out where bodies that have these keys may hold a usage."""
        speaks = any(key in self.ranks for key in keys)
        names = tuple(key for key in keys if key in WITHIN)
        is_simple = not (speaks or len(names) > 1 or any(WITHIN[name] for name in names))
        only = (names or ("",))[0] if is_simple else None
        served = tuple(key for key in keys if key in _KEPT and key != only)
        # Of one key alone it would give no tuple.
        take = cast("Any", itemgetter)(*served, *served[:1]) if served else None
        route = Route(speaks, names, only, served, take)
        return remember(self.routes, keys, route)

    def with_table(self, table: WireShape) -> "Catalogue":
        """The catalogue with one more table.

        Raises:
            WireFormatError: Its name is another's, or none of its marks is its own.
        """
        tables = (*self.registered, *SHAPES)
        if any(known.name == table.name for known in tables):
            msg = (
                f"the name {table.name!r} is another table's already; give this one a name of "
                "its own, as 'acme.chat'."
            )
            raise WireFormatError(msg)
        if not set(table.marks) - set(self.keys):
            readers = {
                mark: next(known.name for known in tables if mark in known.outer_keys())
                for mark in table.marks
            }
            taken = ", ".join(f"{mark!r} is read by {name}" for mark, name in readers.items())
            msg = (
                f"nothing would ever be read by the table {table.name!r}, for none of its marks "
                f"is its own: {taken}; mark it by a key that only such usages have."
            )
            raise WireFormatError(msg)
        return Catalogue((*self.registered, table))


current = Catalogue()
"""The tables as they are now."""


def register_shape(table: WireShape) -> None:
    """Read usages by a table of your own from now on, wherever they are met.

        register_shape(WireShape(name="acme.chat", marks=("tokens_in",), …))

    A usage is read by the table that has one of its keys among its marks. Keys that a table of
    the package reads, or one that was registered before, stay that table's; by its other marks
    this one comes before them all. To register a table twice is to register it once.

    Args:
        table: How the provider writes a usage down.

    Raises:
        WireFormatError: It's no `WireShape`, its name is another table's, or each of its marks is
            a key that another table reads.
    """
    if not isinstance(table, WireShape):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' own
        msg = f"a {type(table).__name__} can't be registered; give a WireShape."
        raise WireFormatError(msg)
    _renew(
        lambda known: known if table in (*known.registered, *SHAPES) else known.with_table(table)
    )


def forget_shapes() -> None:
    """Forget all tables that were registered, as in a new process."""
    _renew(lambda _: Catalogue())


def _renew(change: Callable[[Catalogue], Catalogue]) -> None:
    global current
    with LOADING:
        current = change(current)
