"""A chat call whose provider reports nothing, in a running event loop: ours and LlamaIndex's.

    python -m tests.bench.silent

Prints CPU microseconds a call, start and end through a `CallbackManager`; and, at 800 calls a
second with a tokenizer that takes two milliseconds, which nothing can keep up with, for how long
the longest end of a call was held up, and a reader in the midst. Asserts nothing.
"""

import asyncio
import statistics
import threading
import time

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks import TokenCountingHandler as Theirs
from llama_index.core.llms import ChatMessage, ChatResponse

from llama_token_tracker import TokenCountingHandler as Ours

_CALLS = 200
_ROUNDS = 7


async def _spent(handler: Theirs, words: int) -> float:
    manager = CallbackManager([handler])
    text = "word " * words
    began = time.process_time()
    for number in range(_CALLS):
        messages = [ChatMessage(role="user", content=f"{number} {text}")]
        event_id = manager.on_event_start(CBEventType.LLM, {EventPayload.MESSAGES: messages})
        answer = ChatResponse(message=ChatMessage(role="assistant", content=f"{number} yes"))
        payload = {EventPayload.MESSAGES: messages, EventPayload.RESPONSE: answer}
        manager.on_event_end(CBEventType.LLM, payload, event_id=event_id)
    return (time.process_time() - began) / _CALLS * 1e6


class _Empty(Theirs):
    def on_event_start(self, *_: object, **__: object) -> str:
        """Do nothing."""
        return ""

    def on_event_end(self, *_: object, **__: object) -> None:
        """Do nothing."""


_RATE = 800
_SECONDS = 10
_TOKENIZER_S = 0.002


def _slowly(text: str) -> list[str]:
    time.sleep(_TOKENIZER_S)
    return text.split()


def load(seconds: float) -> tuple[list[float], float, int, int]:
    """Make silent calls at that rate, and read in the midst.

    Returns:
        How long the end of each call took, in seconds; how long the reader took; how many calls
        waited when it began; and how many tokens were counted in the end.
    """
    handler = Ours(tokenizer=_slowly, max_events=100)
    took: list[float] = []
    read: list[float] = []
    waiting = 0

    def look() -> None:
        nonlocal waiting
        waiting = len(handler.tracker.pending)
        began = time.perf_counter()
        handler.by("model")
        read.append(time.perf_counter() - began)

    reader = threading.Timer(seconds / 2, look)
    reader.start()
    began = time.perf_counter()
    for number in range(int(seconds * _RATE)):
        time.sleep(max(0.0, began + number / _RATE - time.perf_counter()))
        messages = [ChatMessage(role="user", content=f"{number} one")]
        payload = {EventPayload.MESSAGES: messages}
        handler.on_event_start(CBEventType.LLM, payload, event_id=str(number))
        ended = time.perf_counter()
        payload[EventPayload.RESPONSE] = ChatResponse(
            message=ChatMessage(role="assistant", content=f"{number}")
        )
        handler.on_event_end(CBEventType.LLM, payload, event_id=str(number))
        took.append(time.perf_counter() - ended)
    reader.join()
    return took, read[0], waiting, handler.total_llm_token_count


def main() -> None:
    """Print the table."""
    took, read, waiting, _ = load(_SECONDS)
    print(
        f"{_RATE} calls/s, tokenizer {_TOKENIZER_S * 1e3:.0f} ms: longest end"
        f" {max(took) * 1e3:.1f} ms; a reader {read:.1f} s, of {waiting} calls that waited"
    )
    for words in (50, 1_000):
        spent: dict[str, list[float]] = {"empty": [], "ours": [], "theirs": []}
        for _ in range(_ROUNDS):
            for name, kind in (("empty", _Empty), ("ours", Ours), ("theirs", Theirs)):
                spent[name].append(asyncio.run(_spent(kind(), words)))
        empty, ours, theirs = (statistics.median(spent[name]) for name in spent)
        print(
            f"{words:5} words: empty {empty:6.1f}, ours {ours:6.1f}, LlamaIndex's {theirs:7.1f} us;"
            f" in the callback {(theirs - empty) / (ours - empty):.0f} times less"
        )


if __name__ == "__main__":
    main()
