"""Answers that were recorded lately, so that a call which hands one on isn't counted again.

A model that asks another in a thread of its own loses the context that tells who is inside whom.
Then the answer tells: it's the same object, or has the same id of the provider. Some servers give
every answer the same id, so calls of one class of models never hand on each other's answers.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from threading import get_ident
from typing import Any, Final, NamedTuple

from llama_token_tracker.extraction.fields import as_fields

_MOST: Final = 256
_SHORTEST: Final = 12
_FEWEST_LETTERS: Final = 6
"""Ids that are shorter or duller, after their prefix, are no proof: some local servers call every
answer `chatcmpl-0`."""
_PLAIN: Final = (dict, list, str)
"""What programs make themselves, maybe one for many calls; an SDK's object is new each time."""
_PREFIX: Final = re.compile(r"^[a-z]+[-_]")


class _Known(NamedTuple):
    """An answer that was recorded.

    Attributes:
        began: When its call began.
        thread: The thread in which that ended.
        maker: The class of the model that was asked; `None` if that isn't known.
        answer: The answer itself, if it has no id: held, so that no other takes its identity.
        is_unique: Whether no other call has had an answer with its id.
    """

    began: float
    thread: int
    maker: str | None
    answer: object = None
    is_unique: bool = True


class KnownAnswers:
    """The newest answers that were recorded while other calls were open."""

    def __init__(self) -> None:
        self.known: OrderedDict[str | int, _Known] = OrderedDict()

    def __len__(self) -> int:
        """How many are known."""
        return len(self.known)

    def hands_on(
        self, answers: Sequence[object], began: float, maker: str, *, is_alone: bool
    ) -> bool:
        """Whether a call's answer is that of another, made elsewhere within it; note it if not.

        Args:
            answers: Each form in which the program sees it.
            began: When the call began.
            maker: The class of the model that was asked by it.
            is_alone: Whether no other call is open, within which it may have been made.
        """
        if any(self.has(answer, began, maker) for answer in answers):
            return True
        for answer in () if is_alone else answers:
            self.note(answer, began, maker)
        return False

    def note(self, answer: object, began: float, maker: str | None) -> None:
        """Note that an answer is recorded.

        Args:
            answer: What the provider said, as the program sees it.
            began: When its call began.
            maker: The class of the model that was asked; `None` for an answer on the wire, of
                which the program sees another object than this.
        """
        name = _id_of(answer)
        if name is not None:
            self._note(name, began, maker)
        elif maker is not None and type(answer) not in _PLAIN:
            self._keep(id(answer), _Known(began, get_ident(), maker, answer))

    def note_id(self, name: str, began: float) -> None:
        """Note that an answer on the wire is recorded which calls itself so.

        Args:
            name: Its id.
            began: When its call began.
        """
        own = _proof(name)
        if own is not None:
            self._note(own, began, None)

    def note_request(self, name: str, began: float) -> None:
        """Note that the answer to a request is recorded which AWS calls so.

        Whether that proves anything is asked when an answer is looked for.

        Args:
            name: The request's id.
            began: When its call began.
        """
        self._note(name, began, None)

    def _note(self, name: str, began: float, maker: str | None) -> None:
        known = self.known.get(name)
        is_same = known is None or known.began == began
        self._keep(name, _Known(began, get_ident(), maker, is_unique=is_same))

    def _keep(self, key: str | int, known: _Known) -> None:
        self.known[key] = known
        while len(self.known) > _MOST:
            try:
                self.known.popitem(last=False)
            except KeyError:
                return  # other threads were quicker

    def has(self, answer: object, began: float, maker: str | None) -> bool:
        """Whether an answer is that of a call which was made, elsewhere, within this one.

        Args:
            answer: What a call has given back.
            began: When that call began.
            maker: The class of the model that was asked by it.
        """
        known = self.known.get(_id_of(answer) or id(answer))
        return (
            known is not None
            and known.is_unique
            and known.began > began
            and known.maker != maker
            and known.thread != get_ident()
        )


def _id_of(answer: object) -> str | None:
    """What its provider calls an answer, if nobody else would call another so."""
    fields = as_fields(answer)
    if fields is None:
        return None
    about = as_fields(fields.get("ResponseMetadata"))
    names: tuple[Any, ...] = (
        fields.get("id"),
        fields.get("response_id"),
        fields.get("responseId"),
        # Ollama's, to the nanosecond.
        fields.get("created_at"),
    )
    found = next(filter(None, map(_proof, names)), None)
    if found is None and about is not None:
        name: Any = about.get("RequestId")
        return name if _proof(name) is not None else None
    return found


def _proof(name: object) -> str | None:
    """An id without its prefix, if it's long and various enough to be one answer's alone."""
    own = _PREFIX.sub("", name) if type(name) is str else ""
    return own if len(own) >= _SHORTEST and len({*own}) >= _FEWEST_LETTERS else None
