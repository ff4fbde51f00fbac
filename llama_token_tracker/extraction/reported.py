"""What a provider said that one call used, and how far that can be trusted."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from llama_token_tracker.pricing import UNSAID, Served
from llama_token_tracker.usage import Source, Usage


class Reported(NamedTuple):
    """What a provider said of one call.

    Attributes:
        usage: The tokens by bucket; `None` if it said nothing.
        input_is_complete: Whether the input figure surely holds all of the input.
        output_is_complete: Whether the output figure surely holds all of the output; of a stream
            that ended early, more may have come than the last figure says.
        served: How it says that the call was served.
    """

    usage: Usage | None
    input_is_complete: bool = True
    output_is_complete: bool = True
    served: Served = UNSAID

    @property
    def input_tokens(self) -> int | None:
        """Tokens that were sent; `None` if not reported."""
        return None if self.usage is None else self.usage.input_tokens

    @property
    def output_tokens(self) -> int | None:
        """Tokens that came back; `None` if not reported."""
        return None if self.usage is None else self.usage.output_tokens

    @property
    def input_source(self) -> Source:
        """How the input figure is marked."""
        return "reported" if self.input_is_complete else "estimated"

    @property
    def covers_output(self) -> bool:
        """Whether nothing of the answer is left to count."""
        return self.output_is_complete and self.output_tokens is not None

    @property
    def covers_call(self) -> bool:
        """Whether nothing of the call is left to count."""
        return self.input_tokens is not None and self.covers_output


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
                total.served.with_another(part.served),
            )
    return total
