"""What bodies of requests and answers hold, found by tables of paths.

A path is written with dots, and lists on the way are walked through: `choices.message.content`.
Only what an event shows, or a tokenizer counts where a provider is silent, is read like this.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, TypeAlias, cast

from llama_token_tracker.extraction.parts import Part, Text, Thinking

Json: TypeAlias = dict[str, Any]

Said: TypeAlias = dict[tuple[str, ...], type[Text] | type[Thinking]]
"""Where answers hold what a model said, and where what it thought."""


def decoded(body: object) -> Json | None:
    """A body as JSON; `None` for anything that is no object."""
    if not isinstance(body, str | bytes | bytearray):
        return None
    try:
        fields: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("Json", fields) if isinstance(fields, dict) else None


def path(written: str) -> tuple[str, ...]:
    """A path as it's walked."""
    return tuple(written.split("."))


def at(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    """The texts that stand at a path, in each entry of the lists on the way."""
    if isinstance(value, list):
        for entry in cast("list[object]", value):
            # A list of lists is nobody's format, and thousands in each other a trap.
            if not isinstance(entry, list):
                yield from at(entry, path)
    elif not path:
        if isinstance(value, str):
            yield value
    elif isinstance(value, Mapping):
        inner: Any = cast("Mapping[str, Any]", value).get(path[0])
        if inner is not None:
            yield from at(inner, path[1:])


def said(documents: Iterable[Json], paths: Said) -> tuple[Part, ...]:
    """What the model said in these documents."""
    return joined(
        kind(text)
        for fields in documents
        for place, kind in paths.items()
        for text in at(fields, place)
    )


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Put neighbouring pieces of one kind together, as tokenizers must see them."""
    whole: list[Part] = []
    for kind, run in groupby(parts, key=type):
        if issubclass(kind, Text | Thinking):
            texts = [part.text for part in run if isinstance(part, Text | Thinking)]
            whole.append(kind("".join(texts)))
        else:
            whole += run
    return tuple(whole)
