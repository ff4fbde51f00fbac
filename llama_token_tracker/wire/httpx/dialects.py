"""What each API's requests and answers hold, as tables of paths.

Only what an event shows, or a tokenizer counts where a provider is silent, is read by them; what
a provider says of tokens is read by the tables in `llama_token_tracker.extraction`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeAlias, cast

from llama_token_tracker.events.event import Status
from llama_token_tracker.extraction.messages import messages_of
from llama_token_tracker.extraction.parts import Message, Text, Thinking
from llama_token_tracker.tokenizers.estimate import stated_output
from llama_token_tracker.wire.bodies import Json, Said, at, decoded, path, said
from llama_token_tracker.wire.exchange import Answered, Asked

Kind: TypeAlias = type[Text] | type[Thinking]


@dataclass(frozen=True)
class Form:
    """How one API words its requests and answers.

    Attributes:
        said: Where answers, and the documents of their streams, hold what the model said.
        messages: Where a request has its messages, or one text in their place.
        content: What a message calls its content.
        system: Where it has instructions that come before the messages.
        last: Where it has the last message, if apart from the others.
        prompt: Where it has a prompt that is one text.
        texts: Where it has texts to embed.
        usage: The keys of an answer that tell of tokens.
        hint: What every document holds that may tell of tokens.
        ends: Which field of a stream's document, with which value, says that the answer is over,
            and how it ended. OpenAI's `[DONE]` is known without that.
    """

    said: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    messages: str = "messages"
    content: str = "content"
    system: tuple[str, ...] = ()
    last: str = ""
    prompt: str = ""
    texts: tuple[str, ...] = ()
    usage: tuple[str, ...] = ("usage",)
    hint: bytes = b"oken"
    ends: Mapping[tuple[str, object], Status] = field(
        default_factory=dict[tuple[str, object], Status]
    )

    def asked(self, body: Any) -> Asked:
        """Read a request."""
        fields = decoded(body)
        if fields is None:
            return Asked()
        texts = tuple(text for place in self.texts for text in at(fields, path(place)))
        model: Any = fields.get("model")
        return Asked(
            self._prompt(fields),
            fields.get("tools"),
            texts,
            stated_output(fields),
            model if isinstance(model, str) else "",
        )

    def answered(self, pieces: Sequence[Any]) -> Answered:
        """Read documents of an answer; what they say of tokens has been heard already."""
        documents = [fields for piece in pieces if (fields := decoded(piece)) is not None]
        return Answered(said(documents, self._said))

    def ended(self, fields: Json) -> Status | None:
        """How the answer ended, if this document says that it has."""
        return next(
            (status for (name, value), status in self.ends.items() if fields.get(name) == value),
            None,
        )

    @cached_property
    def _said(self) -> Said:
        return {path(place): kind for place, kind in self.said.items()}

    def _prompt(self, fields: Json) -> str | tuple[Message, ...]:
        if self.prompt:
            return "".join(at(fields, path(self.prompt)))
        before = [
            {"role": "system", "content": text}
            for place in self.system
            for text in at(fields, path(place))
        ]
        given: Any = fields.get(self.messages)
        messages = [
            {**message, "content": message.get(self.content)} for message in _objects(given)
        ]
        last: Any = given if isinstance(given, str) else fields.get(self.last)
        after = [{"role": "user", "content": last}] if isinstance(last, str) else []
        return messages_of([*before, *messages, *after])


def _objects(given: Any) -> list[Json]:
    entries = cast("list[object]", given) if isinstance(given, list) else []
    return [cast("Json", entry) for entry in entries if isinstance(entry, dict)]


CHAT: Final = Form(
    {
        "choices.message.reasoning_content": Thinking,
        "choices.message.content": Text,
        "choices.message.content.text": Text,
        "choices.message.tool_calls.function.arguments": Text,
        "choices.delta.reasoning_content": Thinking,
        "choices.delta.content": Text,
        "choices.delta.content.text": Text,
        "choices.delta.tool_calls.function.arguments": Text,
    },
)
COMPLETIONS: Final = Form(
    {"choices.text": Text, "choices.message.content": Text, "choices.delta.content": Text},
    prompt="prompt",
)
RESPONSES: Final = Form(
    {"output.content.text": Text, "output.arguments": Text, "delta": Text},
    messages="input",
    system=("instructions",),
    ends={
        ("type", "response.completed"): "complete",
        ("type", "response.incomplete"): "complete",
        ("type", "response.failed"): "failed",
        ("type", "error"): "failed",
    },
)
EMBEDDINGS: Final = Form(texts=("input",))
MESSAGES: Final = Form(
    {
        "content.thinking": Thinking,
        "content.text": Text,
        "delta.thinking": Thinking,
        "delta.text": Text,
        "delta.partial_json": Text,
    },
    system=("system", "system.text"),
    ends={("type", "message_stop"): "complete", ("type", "error"): "failed"},
)
COHERE_CHAT: Final = Form(
    {
        "message.content.text": Text,
        "message.tool_calls.function.arguments": Text,
        "delta.message.content.text": Text,
        "delta.message.tool_calls.function.arguments": Text,
    },
    ends={("type", "message-end"): "complete"},
)
COHERE_V1_CHAT: Final = Form(
    {"text": Text},
    messages="chat_history",
    content="message",
    system=("preamble",),
    last="message",
    usage=("meta",),
    ends={("is_finished", True): "complete"},
)
COHERE_GENERATE: Final = Form(
    {"generations.text": Text, "text": Text},
    prompt="prompt",
    usage=("meta",),
    ends={("is_finished", True): "complete"},
)
COHERE_EMBED: Final = Form(texts=("texts", "inputs.content.text"), usage=("meta",))
GEMINI: Final = Form(
    {"candidates.content.parts.text": Text},
    messages="contents",
    content="parts",
    system=("systemInstruction.parts.text",),
    usage=("usageMetadata",),
)
GEMINI_EMBED: Final = Form(
    texts=("content.parts.text", "requests.content.parts.text"), usage=("usageMetadata",)
)
OLLAMA_CHAT: Final = Form(
    {"message.thinking": Thinking, "message.content": Text},
    usage=("prompt_eval_count", "eval_count"),
    hint=b"eval_count",
    ends={("done", True): "complete"},
)
OLLAMA_GENERATE: Final = Form(
    {"thinking": Thinking, "response": Text},
    prompt="prompt",
    usage=("prompt_eval_count", "eval_count"),
    hint=b"eval_count",
    ends={("done", True): "complete"},
)
OLLAMA_EMBED: Final = Form(
    texts=("input", "prompt"), usage=("prompt_eval_count",), hint=b"eval_count"
)
