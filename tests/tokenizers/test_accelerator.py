"""The accelerator is used only where it counts as tiktoken does."""

import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from llama_token_tracker.tokenizers.accelerator import PROBES, accelerated
from llama_token_tracker.tokenizers.bpe import BytePairCounter
from llama_token_tracker.tokenizers.vocabularies import OPENAI
from tests.tokenizers import hostile

_ENCODINGS = ("cl100k_base", "o200k_base")


@pytest.fixture
def fresh() -> Iterator[None]:
    """Decide anew about the accelerator, before and after the test."""
    accelerated.cache_clear()
    yield
    accelerated.cache_clear()


@pytest.mark.parametrize(("column", "encoding"), [(1, "cl100k_base"), (2, "o200k_base")])
def test_probes_hold_tiktokens_counts(column: int, encoding: str) -> None:
    """The recorded counts are those of the installed tiktoken."""
    counter = BytePairCounter(OPENAI[encoding], accelerate=False)

    counts = counter.count_many([probe[0] for probe in PROBES])
    assert counts == [probe[column] for probe in PROBES]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", _ENCODINGS)
def test_the_accelerator_equals_tiktoken_on_the_hostile_corpus(encoding: str) -> None:
    """50,000 hostile texts, and no difference."""
    pytest.importorskip("toktok")
    fast = accelerated(encoding)
    assert fast is not None
    texts = list(hostile.texts(50_000))

    expected = BytePairCounter(OPENAI[encoding], accelerate=False).count_many(texts)
    counts = fast(texts)
    assert counts is not None
    assert [t for t, a, b in zip(texts, counts, expected, strict=True) if a != b] == []


@pytest.mark.slow
@pytest.mark.parametrize("encoding", _ENCODINGS)
def test_the_accelerator_equals_tiktoken_on_every_code_point(encoding: str) -> None:
    """Each code point counts the same between letters and alone."""
    pytest.importorskip("toktok")
    fast = accelerated(encoding)
    assert fast is not None
    reference = BytePairCounter(OPENAI[encoding], accelerate=False)

    for start in range(0, 0x110000, 0x100):
        points = "".join(map(chr, range(start, start + 0x100)))
        texts = [points, " ".join(points), "a".join(points)]
        assert fast(texts) == reference.count_many(texts), hex(start)


def test_threads_get_equal_counts() -> None:
    """Several threads counting at once get what one would."""
    pytest.importorskip("toktok")
    texts = list(hostile.texts(500, seed=1))
    counter = BytePairCounter(OPENAI["cl100k_base"])
    expected = counter.count_many(texts)
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(index for index in range(10) if counter.count_many(texts) != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _pretend(monkeypatch: pytest.MonkeyPatch, **names: object) -> None:
    module = ModuleType("toktok")
    module.__dict__.update(names)
    monkeypatch.setitem(sys.modules, "toktok", module)


@pytest.mark.usefixtures("fresh")
def test_an_accelerator_that_disagrees_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong count disqualifies it, which is logged once."""
    _pretend(
        monkeypatch,
        batch_count=lambda texts, encoding, threads: [len(text) for text in texts],
    )
    counter = BytePairCounter(OPENAI["cl100k_base"])

    assert counter.count_many(["Hello, world!"]) == [4]
    assert counter.count_many(["Hello, world!"]) == [4]
    [record] = caplog.records
    assert "toktok-rs disagrees with tiktoken on cl100k_base" in record.message


@pytest.mark.usefixtures("fresh")
def test_a_failing_accelerator_leaves_the_counting_to_tiktoken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An accelerator that raises later on costs time, not the count."""
    expected = [probe[1] for probe in PROBES]

    def batch_count(texts: Iterator[str], encoding: str, threads: int) -> list[int]:
        if len(list(texts)) == len(expected):
            return expected
        msg = "out of order"
        raise RuntimeError(msg)

    _pretend(monkeypatch, batch_count=batch_count)

    assert BytePairCounter(OPENAI["cl100k_base"]).count_many(["Hello, world!"]) == [4]


@pytest.mark.usefixtures("fresh")
def test_a_package_of_the_same_name_without_the_function_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A `toktok` that has no `batch_count` is not the accelerator."""
    _pretend(monkeypatch)

    assert accelerated("cl100k_base") is None


def test_encodings_without_probes_are_not_accelerated() -> None:
    """Where no agreement was shown, tiktoken counts."""
    assert accelerated("p50k_base") is None
