"""The content of tables, without their layout: tokens by step of a run, and tokens by file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from llama_token_tracker.views.protocols import Event

SOURCE_MEANINGS: Final = {
    "reported": "the provider's own figure",
    "counted": "no figure from the provider: counted with the model's tokenizer, or yours",
    "estimated": "the provider gave no figure: counted with a stand-in tokenizer",
}
"""The legend below a table that names one of the sources."""

STATUS_MEANINGS: Final = {
    "abandoned": "the reader left early; the prompt and what came through still count",
    "failed": "an error ended the call; what came through before it counts",
    "unanswered": "no answer was seen; the prompt counts, as it may have been billed",
}
"""The legend for each status but the usual one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The tokens of one step, or a sum of steps.

    Attributes:
        label: What the tokens went into.
        embedding: Tokens embedded; `None` where nothing was to embed.
        prompt: Tokens sent to the LLM; `None` where none was called.
        completion: Tokens that the LLM answered with; `None` where none was called.
        total: The sum of the three.
        sources: Where the counts come from, each once, in order of appearance.
        statuses: How the calls ended, each once, in order of appearance.
    """

    label: str
    embedding: int | None = None
    prompt: int | None = None
    completion: int | None = None
    total: int
    sources: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()

    @classmethod
    def of_embeddings(cls, label: str, events: Sequence[Event]) -> Self:
        """Add up the embeddings of one step."""
        total = sum(event.total_token_count for event in events)
        return cls(
            label=label,
            embedding=total,
            total=total,
            sources=_distinct(event.prompt_source for event in events),
            statuses=_distinct(event.status for event in events),
        )

    @classmethod
    def of_calls(cls, label: str, events: Sequence[Event]) -> Self:
        """Add up the LLM calls of one step."""
        return cls(
            label=label,
            prompt=sum(event.prompt_token_count for event in events),
            completion=sum(event.completion_token_count for event in events),
            total=sum(event.total_token_count for event in events),
            sources=_distinct(
                source
                for event in events
                for source in (event.prompt_source, event.completion_source)
            ),
            statuses=_distinct(event.status for event in events),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """Tokens by step of a run.

    Attributes:
        heading: Lines that say what was counted.
        rows: One a step, in the order in which they ran.
        totals: The handler's own running totals, not a sum of the rows.
    """

    heading: tuple[str, ...]
    rows: tuple[Step, ...]
    totals: Step

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """Each source and each unusual status that the rows name, with its meaning."""
        named = {word for row in self.rows for word in (*row.sources, *row.statuses)}
        meanings = SOURCE_MEANINGS | STATUS_MEANINGS
        return tuple((word, meaning) for word, meaning in meanings.items() if word in named)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTable:
    """Tokens by file.

    Attributes:
        heading: Lines that say what counted.
        rows: Each file's name and its tokens, in the order in which they were counted.
    """

    heading: tuple[str, ...]
    rows: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """The tokens of all files."""
        return sum(tokens for _, tokens in self.rows)


def _distinct(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
