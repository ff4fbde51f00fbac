"""Bodies of requests and answers as JSON, and pieces of an answer put together."""

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any, TypeAlias, cast

from llama_token_tracker.extraction.parts import Part, Text, Thinking

Json: TypeAlias = dict[str, Any]


def decoded(body: object) -> Json | None:
    """A body as JSON; `None` for anything that is no object."""
    if not isinstance(body, str | bytes | bytearray):
        return None
    try:
        fields: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("Json", fields) if isinstance(fields, dict) else None


def documents_in(content: bytes) -> list[bytes]:
    """The documents of a JSON list of them, or of lines of which each is one; else none."""
    try:
        listed: object = json.loads(content)
    except (ValueError, RecursionError):
        lines = [line for line in content.splitlines() if line.strip()]
        return lines if len(lines) > 1 and all(map(decoded, lines)) else []
    entries = cast("list[object]", listed) if isinstance(listed, list) else []
    return [json.dumps(entry).encode() for entry in entries]


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
