"""How far a stream of LlamaIndex has come: its figures, and the text of one that ends early."""

from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
)

from llama_token_tracker._lock import pass_on
from llama_token_tracker.extraction import Reported, StreamedUsage, is_silent


class Progress:
    """How far a stream has come.

    Attributes:
        chunks: How many chunks have come.
        last: The newest of them.
        usage: The figures they held.
    """

    __slots__ = ("_deltas", "_figures_at", "chunks", "last", "usage")

    def __init__(self) -> None:
        self.chunks = 0
        self.last: object = None
        self.usage = StreamedUsage()
        self._figures_at = 0
        # The texts of all chunks, as long as their messages may lag behind them.
        self._deltas: list[str] | None = []

    def add(self, chunk: object) -> None:
        """Take in the next chunk."""
        self.chunks += 1
        self.last = chunk
        if self._deltas is not None:
            self._add_delta(self._deltas, chunk)
        if not is_silent(chunk) and self.usage.add(chunk):
            self._figures_at = self.chunks

    def _add_delta(self, deltas: list[str], chunk: Any) -> None:
        """Keep a chunk's text, unless the first one that has any shows it in its message, too."""
        try:
            if isinstance(chunk, CompletionResponse):
                self._deltas = None  # it shows all that has come
                return
            delta: str = chunk.delta
            if not delta:
                return
            if deltas or delta not in (chunk.message.content or ""):
                deltas.append(delta)
            else:
                self._deltas = None
        except Exception as error:  # noqa: BLE001 - an integration's own chunk may be anything
            pass_on(error)
            self._deltas = None

    def so_far(self) -> object:
        """The newest chunk, with all the text that has come.

        Its message may lack what belongs to a block of content that isn't finished yet.

        Source:
            llama-index-llms-anthropic 0.12.3, `stream_chat` (checked 2026-11-30).
        """
        last: Any = self.last
        try:
            text = "".join(self._deltas or ())
            if not text or len(text) <= len(last.message.content or ""):
                return last
            message: ChatMessage = last.message
            blocks = [block for block in message.blocks if not isinstance(block, TextBlock)]
            told = {"role": message.role, "additional_kwargs": message.additional_kwargs}
            written = ChatMessage(blocks=[*blocks, TextBlock(text=text)], **told)
            return ChatResponse(message=written, raw=last.raw)
        except Exception as error:  # noqa: BLE001 - an integration's own chunk may be anything
            pass_on(error)
            return last

    def left_at(self, reported: Reported) -> Reported:
        """The same of a stream that ended here: its output is all, if nothing came after that."""
        is_newest = self._figures_at == self.chunks and reported.input_is_complete
        return reported._replace(output_is_complete=reported.output_is_complete and is_newest)
