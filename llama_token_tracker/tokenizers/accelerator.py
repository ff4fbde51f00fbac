"""The optional package `toktok-rs`, which counts as tiktoken does, only faster.

It knows cl100k_base and o200k_base. It is used only if it gives tiktoken's figures
for the probes below, and no longer once it fails.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Final

from llama_token_tracker._lock import LOADING
from llama_token_tracker._log_once import notice
from llama_token_tracker.tokenizers.text import repair

# Texts with tiktoken's counts by cl100k_base and by o200k_base.
PROBES: Final = (
    ("", 0, 0),
    ("a", 1, 1),
    ("Hello, world!", 4, 4),
    ("It's we've I'LL they're", 9, 5),
    ("camelCase HTTPServer snake_case", 6, 6),
    ("def f(x):\n    return x ** 2  # \t ok\r\n", 15, 15),
    ("   leading", 2, 2),
    ("trailing   ", 3, 3),
    ("a  b   c    d", 7, 7),
    (" \n \n\n  x", 4, 4),
    ("\t\t\tx\n\n\n", 3, 3),
    ("x \r\n\r\n y", 3, 3),
    ("1234567890 3.14159 0x1F", 14, 14),
    ("...!!!???///\n/\n", 5, 5),
    ("<|endoftext|>", 7, 7),
    ("<|im_start|>user<|endofprompt|>", 14, 14),
    ("https://example.org/a?b=c&d=%20", 12, 12),
    ("\u4f60\u597d\uff0c\u4e16\u754c\u3002\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5", 11, 7),
    ("\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", 8, 6),
    ("\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4", 9, 3),
    ("\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", 13, 5),
    ("\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd", 11, 3),
    ("\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", 10, 4),
    ("\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", 10, 2),
    ("\u041f\u0440\u0438\u0432\u0435\u0442, \u041c\u0418\u0420", 7, 6),
    ("\u03a3 \u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3", 16, 8),
    ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", 13, 7),
    ("e\u0301 vs \xe9", 4, 4),
    ("\u0301\u0316x", 4, 4),
    ("\U0001f600\U0001f469\u200d\U0001f467\U0001f1e9\U0001f1ea", 16, 10),
    ("\u200b\u200d\ufeff", 4, 3),
    ("\x00\x01\x7f\x85\x1f", 6, 6),
    ("\u3000\xa0\u2028x", 5, 4),
    ("\ufb01 \xbd \u2167 \xb2", 9, 8),
    ("\ud800x", 2, 2),
    ("\ud83d\ude00", 2, 1),
    ("\U0001d518\U0001d52b\U0001d526\U0001d520\U0001d52c\U0001d521\U0001d522", 21, 21),
    ("\u01c5 \u02b0 \xaa", 7, 7),
    ("a" * 600, 75, 75),
    (" " * 600 + "x", 6, 6),
)
_COLUMN: Final = {"cl100k_base": 1, "o200k_base": 2}


@cache
def accelerated(encoding: str) -> Callable[[Sequence[str]], list[int] | None] | None:
    """Return a function that counts texts as tiktoken does, only faster.

    Args:
        encoding: The encoding's name.

    Returns:
        A function that counts each text, or returns `None` where it can't; or
        `None` when no accelerator is installed, knows the encoding and agrees.
    """
    column = _COLUMN.get(encoding)
    if column is None:
        return None
    try:
        with LOADING:
            from toktok import batch_count  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        return None

    def count_many(texts: Sequence[str]) -> list[int] | None:
        try:
            # One thread: the caller's. Counting must not start any.
            return list(batch_count(texts, encoding, threads=1))
        except UnicodeEncodeError:
            return count_many([repair(text) for text in texts])
        # Whatever it fails of, tiktoken counts instead.
        except Exception as error:  # noqa: BLE001
            notice("toktok failed to count with {}", error, "tiktoken counts instead", encoding)
            return None

    if count_many([probe[0] for probe in PROBES]) != [probe[column] for probe in PROBES]:
        notice(
            "toktok-rs disagrees with tiktoken on {}",
            version("toktok-rs"),
            "it is not used; please report it with that version",
            encoding,
        )
        return None
    return count_many
