"""What calls are grouped by and chosen by: names that people use, and what they are in SQL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, text

from llama_token_tracker._printable import printable
from llama_token_tracker.errors import LedgerError
from llama_token_tracker.sinks.ledger.periods import CALENDAR

Where = Mapping[str, Sequence[str]]
"""By name the values that are meant, of which a call has one; "" is having none."""

KIND_NAMES: Final = ("provider", "model", "operation", "status")
LABEL_NAMES: Final = ("scope",)
PROCESS_NAMES: Final = ("run", "host")
NAMES: Final = (*CALENDAR, *KIND_NAMES, *LABEL_NAMES, *PROCESS_NAMES)
"""Whatever isn't one of these is a tag; "tag:NAME" always is."""

_TAG: Final = {
    "sqlite": "(SELECT value FROM json_each(tags) WHERE key = :{})",
    "postgresql": "(CAST(tags AS jsonb) ->> CAST(:{} AS text))",
}
_TAG_NAMES: Final = {
    "sqlite": "SELECT DISTINCT key FROM ledger_labels, json_each(tags) ORDER BY 1 LIMIT 20",
    "postgresql": "SELECT DISTINCT jsonb_object_keys(CAST(tags AS jsonb)) FROM ledger_labels "
    "ORDER BY 1 LIMIT 20",
}


def table_of(name: str) -> str:
    """Which of a call's tables says that: "kinds", "labels", "processes", or "times"."""
    if name in CALENDAR:
        return "times"
    if name in KIND_NAMES:
        return "kinds"
    return "processes" if name in PROCESS_NAMES else "labels"


@dataclass
class Statement:
    """SQL in the making: what it's made for, and the values that go with it.

    Attributes:
        dialect: Of which database.
        values: By the name that stands in the SQL.
    """

    dialect: str
    values: dict[str, Any] = field(default_factory=dict[str, Any])

    def bind(self, value: object) -> str:
        """The name of a value."""
        name = f"v{len(self.values)}"
        self.values[name] = value
        return name

    def expression(self, name: str) -> str:
        """What a call has under a name, of the table that says it."""
        if name in NAMES:
            return name
        return _TAG[self.dialect].format(self.bind(name.removeprefix("tag:")))

    def conditions(self, where: Where) -> dict[str, list[str]]:
        """What must hold, by table.

        Raises:
            LedgerError: Something can't be chosen by.
        """
        found: dict[str, list[str]] = {}
        for name, values in where.items():
            if name in CALENDAR:
                msg = f"calls can't be chosen by {name}; give --since and --until."
                raise LedgerError(msg)
            said = " OR ".join(self._is(name, value) for value in values)
            found.setdefault(table_of(name), []).append(f"({said})")
        return found

    def _is(self, name: str, value: str) -> str:
        left = self.expression(name)
        if not value:
            return f"{left} IS NULL"
        right = f":{self.bind(value)}"
        if name != "scope":
            return f"{left} = {right}"
        within = f":{self.bind(f'{value}/')}"
        return f"{left} = {right} OR substr({left}, 1, {len(value) + 1}) = {within}"


def check_tags(connection: Connection, names: Iterable[str]) -> None:
    """Refuse names that neither are known nor any call's tag.

    Raises:
        LedgerError: One of them is none.
    """
    for name in names:
        if name in NAMES:
            continue
        statement = Statement(connection.dialect.name)
        found = (
            f"SELECT 1 FROM ledger_labels WHERE {statement.expression(name)} IS NOT NULL LIMIT 1"
        )
        if connection.scalar(text(found), statement.values) is None:
            tags = connection.scalars(text(_TAG_NAMES[connection.dialect.name])).all()
            known = ", ".join(printable(tag) for tag in tags) or "none"
            msg = (
                f"no call has a tag {printable(name)}; known are {', '.join(NAMES)}; "
                f"tags there: {known}."
            )
            raise LedgerError(msg)
