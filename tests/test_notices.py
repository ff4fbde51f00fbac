"""What a provider sent and nobody could read: said once."""

import threading
from collections.abc import Iterator

import pytest

from llama_token_tracker.notices import forget_notices, notice


@pytest.fixture(autouse=True)
def _notices_anew() -> Iterator[None]:
    """Let every test hear its own notices."""
    forget_notices()
    yield
    forget_notices()


def test_a_kind_is_said_once(caplog: pytest.LogCaptureFixture):
    """The first oddity of a kind is logged as a warning, with what was found."""
    for found in (1, 2):
        notice("odd", found, "it is left out")
        notice("odder", found, "it is left out")
    assert [record.getMessage() for record in caplog.records] == [
        "odd: found 1; it is left out",
        "odder: found 1; it is left out",
    ]
    assert {(record.name, record.levelname) for record in caplog.records} == {
        ("llama_token_tracker", "WARNING")
    }


def test_what_is_found_is_shortened(caplog: pytest.LogCaptureFixture):
    """A megabyte of nonsense is a line in the log."""
    notice("long text", "x" * 10**6, "it is left out")
    notice("long list", [1] * 10**5, "it is left out")
    assert all(len(record.getMessage()) < 200 for record in caplog.records)
    assert "…" in caplog.text


def test_what_cannot_be_printed_is_named(caplog: pytest.LogCaptureFixture):
    """A thing whose `repr` raises is known by its type."""

    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError

    notice("a", Unprintable(), "it is left out")
    notice("b", 10**5000, "it is left out")
    assert "a: found an unprintable Unprintable" in caplog.text
    assert "b: found an unprintable int" in caplog.text


def test_inventing_kinds_is_no_way_to_flood_the_log(caplog: pytest.LogCaptureFixture):
    """Beyond some hundred kinds nothing new is logged or remembered."""
    for number in range(1_000):
        notice(f"kind {number}", number, "it is left out")
    assert len(caplog.records) == 256


def test_of_many_threads_one_says_it(caplog: pytest.LogCaptureFixture):
    """A kind is logged once, even if many threads meet it at once."""
    barrier = threading.Barrier(8)

    def meet() -> None:
        barrier.wait()
        notice("odd", 1, "it is left out")

    threads = [threading.Thread(target=meet) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1
