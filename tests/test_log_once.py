"""What a provider sent and nobody could read: said once."""

import ast
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.callbacks import CBEventType, EventPayload

import llama_token_tracker
from llama_token_tracker import TokenCountingEvent, TokenCountingHandler, Usage
from llama_token_tracker._log_once import forget_notices, notice, put_off, say_late


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


def test_inventing_names_is_no_way_to_flood_the_log(caplog: pytest.LogCaptureFixture):
    """Beyond some dozen names of a kind nothing new is logged or remembered, which is said."""
    for number in range(1_000):
        notice("odd thing {}", number, "it is left out", f"named {number}")
    assert len(caplog.records) == 64
    assert caplog.records[0].getMessage() == "odd thing named 0: found 0; it is left out"
    assert caplog.records[-1].getMessage().endswith("; further ones of this kind are not logged")


def test_no_kind_keeps_another_from_being_said(caplog: pytest.LogCaptureFixture):
    """After hundreds of models without a price, an end that can't be counted is still told."""
    token_counter = TokenCountingHandler()
    tracker = token_counter.tracker
    for number in range(300):
        usage = Usage(input_tokens=1, output_tokens=1)
        tracker.record(
            TokenCountingEvent(
                "", "", 1, 1, usage=usage, model=f"model-{number}", provider="nobody"
            )
        )
    assert tracker.unpriced_calls == 300
    # No response at all can be read of this payload, as it is none.
    token_counter.on_event_end(CBEventType.LLM, [1], "1")  # type: ignore[arg-type]
    assert "an end could not be counted" in caplog.text


def test_every_kind_stands_in_the_code():
    """What is said of a kind is bounded by names alone, so a kind holds nothing that varies."""
    package = Path(llama_token_tracker.__file__).parent
    calls = [
        node
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"notice", "_notice_other"}
    ]
    assert len(calls) > 50
    kinds = [call.args[0] for call in calls]
    assert [ast.unparse(kind) for kind in kinds if not isinstance(kind, ast.Constant)] == ["kind"]


def test_a_log_obeys_nothing(caplog: pytest.LogCaptureFixture):
    """Whatever a name or a thing holds, a terminal that shows the log stays as it is."""

    class Hostile:
        def __repr__(self) -> str:
            return "\x1b[2J\n\u202e\0"

    notice("odd {}", Hostile(), "it is left out", "\x1b]0;x\x07\ud800")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.isprintable()


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


def test_what_is_put_off_is_said_later(caplog: pytest.LogCaptureFixture):
    """Within a block nothing is logged, in its own thread alone; after it everything is, once."""
    with put_off(), put_off():
        notice("odd", 1, "it is left out")
        other = threading.Thread(target=notice, args=("odder", 2, "it is left out"))
        other.start()
        other.join()
    assert [record.getMessage() for record in caplog.records] == ["odder: found 2; it is left out"]
    say_late()
    say_late()
    assert [record.getMessage() for record in caplog.records][1:] == [
        "odd: found 1; it is left out"
    ]


class _Reporter(logging.Handler):
    """A log that shows a total beside each line, which another thread reads."""

    def __init__(self, token_counter: TokenCountingHandler) -> None:
        super().__init__()
        self.token_counter = token_counter
        self.lines: list[tuple[str, int]] = []
        self.waited = False

    def emit(self, record: logging.LogRecord) -> None:
        """Read the total in a thread of its own."""
        reader = threading.Thread(target=self._read, args=(record.getMessage(),), daemon=True)
        reader.start()
        reader.join(20)
        self.waited = self.waited or reader.is_alive()

    def _read(self, line: str) -> None:
        self.lines.append((line, self.token_counter.total_llm_token_count))


def test_a_log_may_read_the_totals():
    """What is odd is logged while no lock is held, also of what is only read later."""
    token_counter = TokenCountingHandler()
    reporter = _Reporter(token_counter)
    logger = logging.getLogger("llama_token_tracker")
    logger.addHandler(reporter)
    try:
        for number, cached in enumerate((5, -5)):
            usage = {
                "prompt_tokens": 40,
                "completion_tokens": 7,
                "total_tokens": 47,
                "prompt_tokens_details": {"cached_tokens": cached},
            }
            messages = [ChatMessage("hi", role="user")]
            answer = ChatResponse(
                message=ChatMessage("hello", role="assistant"), raw={"id": "x", "usage": usage}
            )
            token_counter.on_event_start(
                CBEventType.LLM, {EventPayload.MESSAGES: messages}, str(number)
            )
            token_counter.on_event_end(
                CBEventType.LLM, {EventPayload.RESPONSE: answer}, str(number)
            )
        first, second = token_counter.llm_token_counts
    finally:
        logger.removeHandler(reporter)
    assert not reporter.waited
    ((line, total),) = reporter.lines
    assert "cached_tokens: found -5" in line
    assert total == 94
    assert first.usage is not None
    assert first.usage.cache_read_tokens == 5
    assert second.usage is not None
    assert second.usage.cache_read_tokens is None
