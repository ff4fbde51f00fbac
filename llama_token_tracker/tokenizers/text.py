"""Repairs of texts that tokenizers refuse or stall on, without changing their counts.

Tokenizers written in Rust refuse lone surrogates, and Python's own Unicode
normalization takes quadratic time on long runs of combining marks. Both are
put right here, so that no content raises or stalls.
"""

import unicodedata
from functools import cache

import regex

# Shorter runs cost CPython's insertion sort less than finding them would.
_MANY_MARKS = regex.compile(r"\p{M}{256,}+")


def repair(text: str) -> str:
    """Replace lone surrogates by U+FFFD, as tiktoken does.

    A high and a low surrogate side by side become the character they spell.

    Source:
        `tiktoken.Encoding.encode_ordinary`, its handling of UnicodeEncodeError.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def order_marks(text: str) -> str:
    """Put long runs of combining marks into canonical order.

    The result is canonically equivalent to `text`, so every normalization form
    of both is the same; on sorted runs CPython's normalization is linear.
    """
    if text.isascii():
        return text
    ordered: str = _MANY_MARKS.sub(_in_order, text)
    return ordered


def _in_order(run: regex.Match[str]) -> str:
    marks = "".join(map(_decomposed, run.group()))
    starter = ""
    ordered: list[str] = []
    pending: list[str] = []
    for mark in marks:
        if unicodedata.combining(mark):
            pending.append(mark)
            continue
        # Marks never move across a starter (some marks are starters).
        starter = mark
        ordered += sorted(pending, key=unicodedata.combining)
        ordered.append(starter)
        pending.clear()
    return "".join(ordered + sorted(pending, key=unicodedata.combining))


@cache
def _decomposed(mark: str) -> str:
    # A few marks decompose into marks of two classes (U+0F73 …) and would
    # bring the disorder back.
    return unicodedata.normalize("NFD", mark)
