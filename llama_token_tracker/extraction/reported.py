"""What a provider said that one call used, and how far that can be trusted."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from llama_token_tracker._names import MAY_INCLUDE_CACHE
from llama_token_tracker.extraction.shapes.totals import TOTAL
from llama_token_tracker.pricing import UNSAID, Served
from llama_token_tracker.usage import Source, Usage

# By these words in its path, a count that no table knows is part of one side; else of both.
_OF_INPUT: Final = re.compile("input|prompt|cache", re.IGNORECASE)
_OF_OUTPUT: Final = re.compile("output|completion|candidate|generat|reason|though", re.IGNORECASE)

_ADDS_CACHE: Final = ("bedrock.converse", "langchain.usage_metadata")


DEFERRED: Final = "status"
"""What isn't understood of an answer whose status says that it was only begun."""


class Reported(NamedTuple):
    """What a provider said of one call.

    Attributes:
        usage: The tokens by bucket; `None` if it said nothing.
        input_is_complete: Whether the input figure surely holds all of the input.
        output_is_complete: Whether the output figure surely holds all of the output; of a stream
            that ended early, more may have come than the last figure says.
        not_understood: Paths of token counts that no table knows, and names of figures that
            another one contradicts; "error" if an answer is one, whatever its HTTP status;
            `DEFERRED` if it was only begun.
        shape: The name of the table that the figures were read by.
        explains_zero: Whether the answer says why nothing was used: a guardrail stopped it.
        served: How it says that the call was served.
        request_id: What it calls the request, if its answer says so.
    """

    usage: Usage | None
    input_is_complete: bool = True
    output_is_complete: bool = True
    not_understood: tuple[str, ...] = ()
    shape: str = ""
    explains_zero: bool = False
    served: Served = UNSAID
    request_id: str | None = None

    @property
    def input_tokens(self) -> int | None:
        """Tokens that were sent; `None` if not reported."""
        return None if self.usage is None else self.usage.input_tokens

    @property
    def output_tokens(self) -> int | None:
        """Tokens that came back; `None` if not reported."""
        return None if self.usage is None else self.usage.output_tokens

    @property
    def total_alone(self) -> int | None:
        """All tokens of the call, if nothing is said of its sides."""
        return self.input_tokens if self.shape == TOTAL.name else None

    @property
    def input_source(self) -> Source:
        """How the input figure is marked."""
        is_sure = self.input_is_complete and all(map(is_of_output, self.not_understood))
        return "reported" if is_sure else "estimated"

    @property
    def output_source(self) -> Source:
        """How the output figure is marked."""
        return "reported" if all(map(_is_of_input, self.not_understood)) else "estimated"

    @property
    def covers_input(self) -> bool:
        """Whether nothing of the request is left to count; zero may stand for nothing said."""
        return bool(self.input_tokens) or (self.explains_zero and self.input_tokens == 0)

    @property
    def covers_output(self) -> bool:
        """Whether nothing of the answer is left to count; zero may stand for nothing said."""
        is_said = bool(self.output_tokens) or (self.explains_zero and self.output_tokens == 0)
        return is_said and self.output_is_complete

    @property
    def covers_call(self) -> bool:
        """Whether nothing of the call is left to count."""
        return self.covers_input and self.covers_output

    def of_model(self, model: str | None) -> "Reported":
        """The same, as this model has to be read.

        Where its sources disagree on whether cached tokens are within the input, the smaller figure
        stands, marked.
        """
        usage = self.usage
        if not (self.shape in _ADDS_CACHE and usage and MAY_INCLUDE_CACHE.search(model or "")):
            return self
        cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
        least = (usage.input_tokens or 0) - cached
        if not 0 < cached <= least:
            return self
        counts = {**usage.reported(), "input_tokens": least}
        return self._replace(
            usage=Usage.of(counts), not_understood=(*self.not_understood, "cache in input_tokens")
        )


SILENT: Final = Reported(None)
"""A provider that said nothing."""


def combined(parts: Iterable[Reported]) -> Reported:
    """What several requests of one call used together; most calls have one."""
    total = SILENT
    for part in parts:
        if total.usage is None or part.usage is None:
            total = part if total.usage is None else total
        else:
            total = Reported(
                total.usage + part.usage,
                total.input_is_complete and part.input_is_complete,
                total.output_is_complete and part.output_is_complete,
                together(total.not_understood, part.not_understood),
                total.shape if total.shape == part.shape else "",
                served=total.served.with_another(part.served),
            )
    return total


def together(*several: Iterable[str]) -> tuple[str, ...]:
    """All names of these, each once, in their order."""
    return tuple(dict.fromkeys(name for names in several for name in names))


def believed(wire: Reported, told: Reported) -> Reported:
    """Of what the wire said and what a framework left of that, the one to believe.

    The wire is; but a framework may know the end of a stream that was read elsewhere, and may state
    more parts of the same figures.
    """
    if wire.usage is None or (told.covers_call and not wire.covers_call):
        return told._replace(
            not_understood=together(wire.not_understood, told.not_understood),
            served=wire.served.filled(told.served),
        )
    found = with_parts(wire, told)
    if found.usage is not wire.usage:
        return found
    # What is doubtful about a copy says nothing of the figures it was made of.
    return found._replace(not_understood=wire.not_understood)


def with_parts(reported: Reported, other: Reported) -> Reported:
    """The same figures with their parts, where another place states those as well."""
    known, more = reported.usage, other.usage
    reported = reported._replace(
        not_understood=together(reported.not_understood, other.not_understood),
        served=reported.served.filled(other.served),
    )
    if (
        more is not None
        and known is not None
        and (more.input_tokens, more.output_tokens) == (known.input_tokens, known.output_tokens)
        and knows(more) > knows(known)
    ):
        return reported._replace(usage=more)
    return reported


def knows(usage: Usage) -> int:
    """In how many buckets a usage holds more than zero."""
    return sum(map(bool, usage.__dict__.values()))


def _is_of_input(path: str) -> bool:
    return bool(_OF_INPUT.search(path)) and not _OF_OUTPUT.search(path)


def is_of_output(path: str) -> bool:
    """Whether a count that stands at this path can only be part of the output."""
    return bool(_OF_OUTPUT.search(path)) and not _OF_INPUT.search(path)
