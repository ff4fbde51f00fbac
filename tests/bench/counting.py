"""Counting embeddings: this package against LlamaIndex's handler, in one run.

    python -m tests.bench.counting [--english FILE] [--code FILE] [--chinese FILE]

Each text is 5 MB in chunks of 1,000 tokens, handed over 100 at a time. "First" is
the first pass over it, "again" the best CPU time of each batch in four more: the
accelerator remembers words, so it gets faster with text like what it has seen.
Loading vocabularies is left out. Without files, English is the standard library's
documentation, code is its source and Chinese is made of sentences below. It prints
a table and asserts nothing but that the counts are equal.
"""

import argparse
import math
import random
import sysconfig
import time
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

from llama_index.core.callbacks import CBEventType, EventPayload, TokenCountingHandler

from llama_token_tracker.tokenizers.base import TextTokenizer
from llama_token_tracker.tokenizers.bpe import BytePairCounter
from llama_token_tracker.tokenizers.vocabularies import OPENAI

_BYTES: Final = 5_000_000
_BATCH: Final = 100
_ROUNDS: Final = 5
_WAYS: Final = ("theirs", "ours", "accelerated")
_CHINESE: Final = (
    "人工智能正在改变我们的生活和工作方式。",
    "这个函数返回一个列表，其中每个元素都是整数。",
    "昨天下午，北京下了一场大雨，许多道路都被淹没了。",
    "如果没有指定文件名，程序会从标准输入读取数据。",
    "他认为经济增长的速度将会在明年逐渐放缓。",
    "请注意，该选项只对当前用户有效，不会影响其他人。",
    "研究人员发现，睡眠不足会影响记忆力与判断力。",
    "图书馆里收藏着三万多册古籍，其中不少是孤本。",
    "系统管理员可以用这个命令查看所有正在运行的进程。",
    "春天来了，公园里的樱花开得非常漂亮。",
    "公司宣布将投资二十亿元建设新的数据中心。",
    "为了提高检索质量，我们把文档切分成较小的片段。",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("english", "code", "chinese"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    for counter in _COUNTERS.values():
        counter.count_many(["Load the vocabulary."])
    print(f"tiktoken {version('tiktoken')}, toktok-rs {_version('toktok-rs')}, CPU time")
    print(f"{'text':16}{'LlamaIndex':>12}{'ours':>12}{'ratio':>7}{'accelerated':>14}{'ratio':>7}")
    for name, make in (("english", _english), ("code", _code), ("chinese", _chinese)):
        file: Path | None = getattr(given, name)
        text = file.read_text(encoding="utf-8", errors="replace") if file else make()
        _compare(name, _chunks(text))


def _compare(name: str, chunks: list[str]) -> None:
    batches = [chunks[start : start + _BATCH] for start in range(0, len(chunks), _BATCH)]
    first = dict.fromkeys(_WAYS, 0.0)
    again = {way: [math.inf] * len(batches) for way in _WAYS}
    counts: dict[str, list[int]] = {}
    for round_ in range(_ROUNDS):
        # New ones each round: their memos know none of the texts.
        ways: dict[str, _Theirs | _Ours] = {
            "theirs": _Theirs(),
            "ours": _Ours(accelerate=False),
            "accelerated": _Ours(accelerate=True),
        }
        # Batch by batch in turns, so that a noisy moment hits all alike.
        for index, batch in enumerate(batches):
            for way, counter in ways.items():
                start = time.process_time()
                counter.count(batch)
                spent = time.process_time() - start
                if round_ == 0:
                    first[way] += spent
                else:
                    again[way][index] = min(spent, again[way][index])
        counts = {way: counter.counts() for way, counter in ways.items()}
    assert counts["theirs"] == counts["ours"] == counts["accelerated"]
    size = sum(len(chunk.encode()) for chunk in chunks) / 1e6
    _print(f"{name}, first", size, *first.values())
    _print(f"{name}, again", size, *map(sum, again.values()))


def _print(title: str, size: float, theirs: float, ours: float, fast: float) -> None:
    print(
        f"{title:16}{size / theirs:7.1f} MB/s{size / ours:7.1f} MB/s{theirs / ours:6.2f}x"
        f"{size / fast:9.1f} MB/s{theirs / fast:6.1f}x"
    )


class _Theirs:
    def __init__(self) -> None:
        self._handler = TokenCountingHandler()

    def count(self, batch: list[str]) -> None:
        self._handler.on_event_end(CBEventType.EMBEDDING, {EventPayload.CHUNKS: batch})

    def counts(self) -> list[int]:
        events = self._handler.embedding_token_counts
        return [event.total_token_count for event in events]


_COUNTERS: Final = {
    accelerate: BytePairCounter(OPENAI["cl100k_base"], accelerate=accelerate)
    for accelerate in (False, True)
}


class _Ours:
    def __init__(self, *, accelerate: bool) -> None:
        self._tokenizer = TextTokenizer(_COUNTERS[accelerate], "counted")
        self._counts: list[int] = []

    def count(self, batch: list[str]) -> None:
        self._counts += self._tokenizer.count_many(batch)

    def counts(self) -> list[int]:
        return self._counts


def _chunks(text: str) -> list[str]:
    """Cut a text into chunks of about 1,000 tokens, 5 MB in all."""
    sample = text[:200_000]
    [tokens] = _COUNTERS[False].count_many([sample])
    length = 1000 * len(sample) // tokens
    chunks, size = [], 0
    for start in range(0, len(text), length):
        chunks.append(text[start : start + length])
        size += len(chunks[-1].encode())
        if size >= _BYTES:
            break
    return chunks


def _english() -> str:
    pages = [*topics.values()]
    text = "\n\n".join(pages)
    draw = random.Random(0)
    while len(text) < _BYTES:
        # Lines in another order, so that no chunk comes twice.
        lines = "\n".join(pages).splitlines()
        draw.shuffle(lines)
        text += "\n".join(lines)
    return text


def _code() -> str:
    folder = Path(sysconfig.get_path("stdlib"))
    sources = sorted(folder.glob("*.py")) + sorted(folder.glob("[a-i]*/*.py"))
    return "\n".join(path.read_text(errors="replace") for path in sources)


def _chinese() -> str:
    draw = random.Random(0)
    return "".join(draw.choices(_CHINESE, k=_BYTES // 60))


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "not installed"


if __name__ == "__main__":
    main()
