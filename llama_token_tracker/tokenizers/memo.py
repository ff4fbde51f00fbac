"""A cache of counts by content, so that a text is counted once.

Keys are digests: the memo holds no text, and its size is bounded in bytes.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

# A 16-byte digest, its bytes object, an int and their place in a dict,
# measured with `sys.getsizeof` and rounded up.
_ENTRY_BYTES: Final = 200


class Memo:
    """Remembers the counts of the texts seen last.

    Attributes:
        max_bytes: What the memo may hold, in bytes. 0 remembers nothing.
    """

    __slots__ = ("_counts", "_max_entries", "max_bytes")

    def __init__(self, max_bytes: int = 4 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self._max_entries = max_bytes // _ENTRY_BYTES
        self._counts: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Return how many counts are remembered."""
        return len(self._counts)

    def count_many(
        self, texts: Sequence[str], count_many: Callable[[list[str]], list[int]]
    ) -> list[int]:
        """Count `texts`, asking `count_many` only for those not remembered.

        Args:
            texts: The texts to count, repeats allowed.
            count_many: Counts distinct texts, in order.

        Returns:
            A count for each of `texts`, in order.
        """
        keys = [_digest(text) for text in texts]
        known: dict[bytes, int] = {}
        missing: dict[bytes, str] = {}
        for key, text in zip(keys, texts, strict=True):
            count = self._counts.get(key)
            if count is None:
                missing[key] = text
            else:
                known[key] = count
        if missing:
            counted = count_many(list(missing.values()))
            known.update(zip(missing, counted, strict=True))
        self._remember(known)
        return [known[key] for key in keys]

    def _remember(self, counts: dict[bytes, int]) -> None:
        # No lock: each step is one of `dict`, and a count that another thread puts in or takes
        # out meanwhile is remembered or not.
        for key, count in counts.items():
            # Taken out and put back, so that it counts as seen last.
            self._counts.pop(key, None)
            self._counts[key] = count
        surplus = len(self._counts) - self._max_entries
        for key in list(self._counts)[: max(0, surplus)]:
            self._counts.pop(key, None)


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
