"""Texts that trip tokenizers: the corpus for comparing one with another."""

import random
from collections.abc import Callable, Iterator
from typing import Final

_PROSE: Final = (
    "the of and to in is that for it as was with be by on not he I this are or "
    "his from at which but have an had they you were their one all we can her "
    "has there been if more when will would who so no token counting HTTPServer "
    "don't I'LL they've it's WE'RE naïve café Straße coöperate 1st 2nd 3.14"
)
_WORDS: Final = _PROSE.split()
_CODE: Final = (
    "def ",
    "return ",
    "    ",
    "\t",
    "\n",
    "\r\n",
    "()",
    "{}",
    "[];",
    " == ",
    "!=",
    "->",
    "::",
    "//",
    "/* ",
    " */",
    "#",
    '"""',
    "\\n",
    "self.",
    "x",
    "camelCase",
    "snake_case",
    "CONSTANT_VALUE",
    "0xFF",
    "1e-9",
    "<div class='a'>",
    "&&",
    "|",
    "=>",
    "${x}",
)
_SPECIAL: Final = (
    "<|endoftext|>",
    "<|fim_prefix|>",
    "<|endofprompt|>",
    "<|im_start|>",
    "<|start|>",
    "<|",
    "|>",
    "<|endof",
    "text|>",
    "<EOT>",
)
_SPACES: Final = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\ufeff"
_EMOJI: Final = ("😀", "👩\u200d👧", "🇩🇪", "👍🏽", "❤\ufe0f", "1\ufe0f\u20e3", "🧠")
_BLOCKS: Final = {
    "chinese": (0x4E00, 0x9FFF),
    "kana": (0x3040, 0x30FF),
    "hangul": (0xAC00, 0xD7A3),
    "devanagari": (0x0900, 0x097F),
    "tamil": (0x0B80, 0x0BFF),
    "thai": (0x0E00, 0x0E7F),
    "arabic": (0x0600, 0x06FF),
    "hebrew": (0x0590, 0x05FF),
    "cyrillic": (0x0400, 0x04FF),
    "greek": (0x0370, 0x03FF),
    "latin": (0x00C0, 0x024F),
    "marks": (0x0300, 0x036F),
    "numbers": (0x2150, 0x218F),
    "math": (0x1D400, 0x1D7FF),
    "controls": (0x00, 0x20),
    "bmp": (0x80, 0xD7FF),
    "private": (0xE000, 0xFFFF),
    "astral": (0x10000, 0x10FFFF),
    "surrogates": (0xD800, 0xDFFF),
}


def texts(number: int, seed: int = 0) -> Iterator[str]:
    """Make `number` texts, the same ones for the same seed."""
    draw = random.Random(seed)
    makers: tuple[Callable[[random.Random], str], ...] = (
        lambda r: " ".join(r.choices(_WORDS, k=r.randint(1, 40))),
        lambda r: "".join(r.choices(_CODE, k=r.randint(1, 40))),
        lambda r: "".join(r.choices(_SPECIAL + tuple(_WORDS), k=r.randint(1, 10))),
        lambda r: "".join(c * r.randint(1, 30) for c in r.choices(_SPACES, k=5)),
        lambda r: "".join(r.choices(_EMOJI, k=r.randint(1, 10))),
        lambda r: "".join(chr(r.randint(32, 126)) for _ in range(r.randint(1, 80))),
        lambda r: r.choice("aA9!é中 \n") * r.randint(1, 300),
        _of_block,
        _of_block,
        _of_block,
    )
    for _ in range(number):
        # Most texts mix two kinds, since tokenizers differ at the seams.
        kinds = draw.choices(makers, k=draw.randint(1, 3))
        yield "".join(make(draw) for make in kinds)


def _of_block(draw: random.Random) -> str:
    first, last = draw.choice(list(_BLOCKS.values()))
    letters = [chr(draw.randint(first, last)) for _ in range(draw.randint(1, 20))]
    if draw.random() < 0.3:
        letters.insert(draw.randrange(len(letters)), draw.choice(_SPACES))
    return "".join(letters)
