"""Language models that say what a test tells them to, through LlamaIndex's own machinery."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from pydantic import ConfigDict

from llama_token_tracker import TokenCountingHandler

LLM = CBEventType.LLM
EMBEDDING = CBEventType.EMBEDDING
HELLO = [ChatMessage(role="user", content="hello")]


def reported(prompt: int, completion: int) -> dict[str, Any]:
    """A provider's body with these figures, in OpenAI's dialect."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    return {"id": "x", "usage": usage}


def answer(text: str = "hi", raw: object = None) -> ChatResponse:
    """A chat's answer."""
    return ChatResponse(message=ChatMessage(role="assistant", content=text), raw=raw)


class Scripted(CustomLLM):
    """Completes with `raw`; streams one chunk for each of `raws`. Chats go through completions.

    Attributes:
        raw: What the provider sends for a whole answer.
        raws: What it sends chunk by chunk.
        fails: What it raises instead of an answer, or after its chunks.
        calls: How often a provider would have been called.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    raw: Any = None
    raws: Sequence[Any] = ()
    fails: BaseException | None = None
    calls: int = 0

    @property
    def metadata(self) -> LLMMetadata:
        """A model with a name."""
        return LLMMetadata(model_name="scripted-1")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Say hi."""
        self.calls += 1
        if self.fails is not None:
            raise self.fails
        return CompletionResponse(text="hi", raw=self.raw)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Say one more word with each chunk."""

        def chunks() -> CompletionResponseGen:
            self.calls += 1
            text = ""
            for raw in self.raws:
                text += "word "
                yield CompletionResponse(text=text, delta="word ", raw=raw)
            if self.fails is not None:
                raise self.fails

        return chunks()


class Chatty(Scripted):
    """The same the other way round: completions go through chats."""

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Say hi."""
        self.calls += 1
        if self.fails is not None:
            raise self.fails
        return answer(raw=self.raw)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Ask the chat."""
        response = self.chat([ChatMessage(role="user", content=prompt)])
        return CompletionResponse(text=str(response.message.content), raw=response.raw)


class Asking(Scripted):
    """Answers with whatever `ask` answers, and reports `raw` itself."""

    ask: Callable[[str], Any]

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Ask, and say hi."""
        self.ask(prompt)
        return CompletionResponse(text="hi", raw=self.raw)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Pass on what is asked for when the first chunk is."""

        def chunks() -> CompletionResponseGen:
            yield from self.ask(prompt)

        return chunks()


def counted(kind: type[Scripted] = Scripted, **fields: Any) -> tuple[TokenCountingHandler, Any]:
    """A handler, and a model that it counts."""
    handler = TokenCountingHandler()
    return handler, kind(callback_manager=CallbackManager([handler]), **fields)


def deaf() -> CallbackManager:
    """A manager without handlers; a new one that is given none takes those of Settings."""
    manager = CallbackManager([])
    manager.handlers = []
    return manager


def by_hand(
    handler: Any,
    response: object,
    prompt: object = "hello",
    event_id: str = "1",
    start: bool = True,
) -> None:
    """Feed one call's start and end to a handler, without a manager."""
    if isinstance(prompt, list):
        asked, answered = EventPayload.MESSAGES, EventPayload.RESPONSE
    else:
        asked, answered = EventPayload.PROMPT, EventPayload.COMPLETION
    if start:
        handler.on_event_start(LLM, {asked: prompt}, event_id=event_id)
    handler.on_event_end(LLM, {asked: prompt, answered: response}, event_id=event_id)


def figures(handler: TokenCountingHandler) -> list[tuple[int, int]]:
    """Prompt and completion tokens of each event."""
    return [
        (event.prompt_token_count, event.completion_token_count)
        for event in handler.llm_token_counts
    ]


def words(text: str) -> list[str]:
    """A tokenizer that is easily foreseen."""
    return text.split()


def first(stream: Iterator[Any]) -> Any:
    """The first chunk."""
    return next(stream)
