"""A chat call whose provider reports nothing, in a running event loop: ours and LlamaIndex's.

    python -m tests.bench.silent

Prints CPU microseconds a call, start and end through a `CallbackManager`. Asserts nothing.
"""

import asyncio
import statistics
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


def main() -> None:
    """Print the table."""
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
