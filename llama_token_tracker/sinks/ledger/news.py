"""What other processes of a run have written to a ledger, each call once."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Engine, and_, or_, select

from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.pricing import Prices
from llama_token_tracker.sinks.ledger.records import event_of, set_cost
from llama_token_tracker.sinks.ledger.schema import CALLS, EVENTS, PROCESSES, TEXTS

_MOST_MISSING: Final = 10_000
"""Numbers of one process that are waited for: those of calls that were put aside."""


class News:
    """Reads what others have written since it was asked last.

    A process numbers its calls; so what was read of it is a number up to which all is known, and
    the few below it that haven't come yet.

    Args:
        run: The run whose processes are meant.
        own: The id of this process, whose calls aren't.
    """

    def __init__(self, run: str, own: int) -> None:
        self._run = run
        self._own = own
        self._read: dict[int, tuple[int, frozenset[int]]] = {}

    def read(self, engine: Engine, prices: Prices) -> Sequence[TokenCountingEvent]:
        """The events, process by process, in the order in which they ended."""
        found: list[TokenCountingEvent] = []
        with engine.connect() as connection:
            others = select(PROCESSES.c.id).where(
                PROCESSES.c.run == self._run, PROCESSES.c.id != self._own
            )
            for process in connection.scalars(others).all():
                found += self._of(connection, process, prices)
        return found

    def _of(
        self, connection: Connection, process: int, prices: Prices
    ) -> Sequence[TokenCountingEvent]:
        last, missing = self._read.get(process, (0, frozenset[int]()))
        number = CALLS.c.number
        is_new = or_(number > last, number.in_(missing)) if missing else number > last
        calls = select(CALLS.c.started_us, CALLS.c.id).where(CALLS.c.process_id == process, is_new)
        wanted = calls.subquery()
        texts = and_(TEXTS.c.started_us == wanted.c.started_us, TEXTS.c.id == wanted.c.id)
        joined = and_(EVENTS.c.started_us == wanted.c.started_us, EVENTS.c.id == wanted.c.id)
        rows = connection.execute(
            select(EVENTS, TEXTS.c.prompt, TEXTS.c.completion)
            .select_from(wanted.join(EVENTS, joined).outerjoin(TEXTS, texts))
            .order_by(EVENTS.c.number)
        ).mappings()
        events: list[TokenCountingEvent] = []
        read = set[int]()
        for row in rows:
            values = {str(name): value for name, value in row.items()}
            event = event_of(values)
            event.price_with(prices)
            set_cost(event, values)
            events.append(event)
            read.add(values["number"])
        self._note(process, last, missing, read)
        return events

    def _note(self, process: int, last: int, missing: frozenset[int], read: set[int]) -> None:
        if read:
            newest = max(last, *read)
            still = (missing | set(range(last + 1, newest + 1))) - read
            self._read[process] = newest, frozenset(sorted(still)[-_MOST_MISSING:])
