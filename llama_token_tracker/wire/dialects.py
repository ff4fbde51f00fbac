"""Dialects: how each API words its requests and answers, as tables of paths.

Only what an event shows, or a tokenizer counts where a provider reports nothing, is read by them;
what a provider reports of tokens is read by the tables in `llama_token_tracker.extraction`. Paths
are written as `llama_token_tracker.extraction.paths` says.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, cast

from llama_token_tracker.events.event import Status
from llama_token_tracker.extraction import extract_reported
from llama_token_tracker.extraction.messages import messages_of
from llama_token_tracker.extraction.parts import Message, Opaque, Part, Text, Thinking
from llama_token_tracker.extraction.paths import Path, parse, texts_at, values_at
from llama_token_tracker.tokenizers.estimate import stated_output
from llama_token_tracker.wire.bodies import Json, decoded, joined
from llama_token_tracker.wire.transcript import UNREADABLE, Answered, Asked

Kind: TypeAlias = type[Text] | type[Thinking]
Pieces: TypeAlias = Literal["documents", "bytes"]


@dataclass(frozen=True, kw_only=True)
class Deferral:
    """How an API words that an answer isn't there yet, but can be retrieved.

    Attributes:
        place: Where it is then, by the path of the request, the folder of that, and the id.
        status: The field that says how far it is.
        waits: What that holds as long as the answer isn't there.
        ends: What it holds if the call is over, and how it ended.
        id: The field that holds the id.
    """

    place: str
    status: str
    waits: frozenset[object]
    ends: Mapping[object, Status]
    id: str = "id"

    def body(self, fields: Json) -> Json | None:
        """What tells of the answer: the fields themselves, or what an event of a stream holds."""
        inner: Any = fields if self.id in fields else fields.get("response", fields)
        return cast("Json", inner) if isinstance(inner, dict) else None

    def ended(self, fields: Json) -> Status | None:
        """How the call ended, if these fields of an answer say that it's over."""
        status = fields.get(self.status)
        return self.ends.get(status) if isinstance(status, str) else None

    def place_of(self, fields: Json, path: str) -> str:
        """Where the answer is to be retrieved; "" if these fields are an answer, or a part of it.

        Args:
            fields: What has come.
            path: The host and the path of the request.
        """
        body = self.body(fields) or {}
        name, status = body.get(self.id), body.get(self.status)
        # An event of a stream always says that more will come.
        is_deferred = body is fields or body.get("background") is True
        waits = isinstance(status, str | None) and status in self.waits
        if not (is_deferred and waits and isinstance(name, str)):
            return ""
        return self.place.format(path=path, folder=path.rpartition("/")[0], id=name)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one API words its requests and answers.

    Attributes:
        answer: Paths at which an answer, or a document of its stream, holds what the model wrote
            (`Text`) and what it thought (`Thinking`).
        messages: Where a request has its messages, or one text in their place.
        content: What a message calls its content.
        system: Where a request has instructions that come before the messages.
        last: Where it has the last message, if apart from the others.
        prompts: Where it may have a prompt that is one text; the first that's there is taken,
            if it has no messages.
        texts: Where it has texts to embed.
        tools: Where it may describe tools; the first place that does is taken.
        limits: Where it may say how much may come back at the most, apart from the names that
            `llama_token_tracker.tokenizers.estimate` knows.
        characters: Where it has a text that is billed by its characters.
        usage: The outermost keys of an answer that tell of tokens.
        hint: What every document holds that may tell of tokens.
        ends: Which field of a stream's document, with which value, says that the answer is over,
            and how it ended. OpenAI's `[DONE]` is known without that.
        finishes: Paths at which such a document holds something if all of the answer has come,
            though figures may follow. A stream that has neither this nor one of `ends` was broken
            off, unless its dialect names none at all.
        pieces: What an answer is read from: JSON documents, maybe decoded, or bytes of one.
        blocks: Where an answer has content as a message has it.
        deferral: How an answer is worded that has to be retrieved later, if there are such.
        model: Where a request names the model.
        hints: What a document holds that is worth reading while it comes: one of these.
    """

    answer: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    messages: str = "messages"
    content: str = "content"
    system: str = ""
    last: str = ""
    prompts: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    tools: tuple[str, ...] = ("tools", "functions")
    limits: tuple[str, ...] = ()
    characters: str = ""
    usage: tuple[str, ...] = ("usage",)
    hint: bytes = b"oken"
    ends: Mapping[tuple[str, object], Status] = field(
        default_factory=dict[tuple[str, object], Status]
    )
    finishes: tuple[str, ...] = ()
    pieces: Pieces = "documents"
    blocks: str = ""
    deferral: Deferral | None = None
    model: str = "model"
    hints: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    _paths: "dict[str, Path]" = field(init=False, repr=False, compare=False)
    _read: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile the paths once.

        Raises:
            WireFormatError: One can't be parsed.
        """
        single = (self.messages, self.system, self.last, self.characters, self.model)
        several = (
            self.blocks,
            *self.answer,
            *self.prompts,
            *self.texts,
            *self.tools,
            *self.limits,
            *self.finishes,
        )
        paths = {path: parse(path) for path in (*single, *several) if path}
        object.__setattr__(self, "_paths", paths)
        # What a request is read by; all else in it are options.
        asked = (*single[:-1], *self.prompts, *self.texts, *self.tools, *self.limits)
        read = frozenset(str(paths[path][0].key) for path in asked if path)
        object.__setattr__(self, "_read", read)
        hints = (
            self.hint,
            *(f'"{value}"'.encode() for _, value in self.ends if isinstance(value, str)),
            *(b"true" for _, value in self.ends if value is True),
            *([b'"background"'] if self.deferral is not None else ()),
            b'"error"',
        )
        object.__setattr__(self, "hints", hints)

    # --- requests --------------------------------------------------------------------------

    def asked(self, body: object) -> Asked:
        """Read a request's body, as it is sent."""
        fields = decoded(body)
        if fields is None:
            return UNREADABLE
        model: Any = next(self._values(fields, (self.model,)), None)
        tools = next(self._values(fields, self.tools), None)
        options = {name: value for name, value in fields.items() if name not in self._read}
        return Asked(
            self._prompt(fields),
            tools,
            tuple(self._texts(fields, self.texts)),
            self._limit(fields),
            model if isinstance(model, str) else "",
            sum(map(len, self._texts(fields, filter(None, [self.characters])))),
            options if tools is None else {**options, "tools": tools},
        )

    def _values(self, fields: Json, paths: Iterable[str]) -> Iterator[Any]:
        """What stands at these paths, nothing empty among it."""
        for path in filter(None, paths):
            yield from filter(None, values_at(fields, self._paths[path]))

    def _texts(self, fields: Json, paths: Iterable[str]) -> Iterator[str]:
        return (text for path in paths for text in texts_at(fields, self._paths[path]))

    def _limit(self, fields: Json) -> int | None:
        limits = ({"max_tokens": limit} for limit in self._values(fields, self.limits))
        return stated_output(*limits, fields)

    def _prompt(self, fields: Json) -> str | tuple[Message, ...]:
        given: object = next(self._values(fields, (self.messages,)), None)
        messages = self._messages(given)
        if self.prompts and not isinstance(given, list):
            texts = ("".join(self._texts(fields, (path,))) for path in self.prompts)
            return next((text for text in texts if text), "")
        system = list(self._values(fields, (self.system,)))
        before = [{"role": "system", "content": system}] if system else []
        last: object = (
            given if isinstance(given, str) else next(self._values(fields, (self.last,)), None)
        )
        after = [{"role": "user", "content": last}] if isinstance(last, str) else []
        return messages_of([*before, *messages, *after])

    def _messages(self, given: object) -> Iterator[Json]:
        for message in cast("list[object]", given) if isinstance(given, list) else ():
            if isinstance(message, dict):
                fields = dict(cast("Json", message))
                fields["content"] = fields.pop(self.content, None)
                yield fields

    # --- answers ---------------------------------------------------------------------------

    def answered(self, pieces: Sequence[Any]) -> Answered:
        """Read what has come of an answer.

        What its documents say of tokens has been read as they came, unless it came in bytes.
        """
        if self.pieces == "bytes":
            body = b"".join(pieces)
            return Answered(self._said([body]), extract_reported(decoded(body)))
        return Answered(self._said(pieces))

    def _said(self, documents: Sequence[Any]) -> tuple[Part, ...]:
        unread: dict[str, Part] = {}

        def parts() -> Iterator[Part]:
            # One after the other: as objects a long stream takes ten times the memory of its bytes.
            for document in documents:
                fields = _fields(document)
                if fields is None:
                    # What can't be read isn't empty.
                    unread["answer"] = Opaque("answer")
                else:
                    yield from self._written(fields)

        return (*joined(parts()), *unread.values())

    def ended(self, fields: Json) -> Status | None:
        """How the answer ended, if this document says that it has."""
        return next(
            (status for (name, value), status in self.ends.items() if fields.get(name) == value),
            None,
        )

    def is_over(self, last: Iterable[object]) -> bool:
        """Whether a stream has come to its end.

        Args:
            last: Its last documents, the newest first.
        """
        return not (self.ends or self.finishes) or any(map(self._finishes, last))

    def _finishes(self, document: object) -> bool:
        fields = _fields(document)
        if fields is None:
            return False
        found = (value for path in self.finishes for value in values_at(fields, self._paths[path]))
        return self.ended(fields) is not None or any(value is not False for value in found)

    def _written(self, fields: Json) -> Iterator[Part]:
        for path, kind in self.answer.items():
            for text in texts_at(fields, self._paths[path]):
                yield kind(text)
        blocks = [*self._values(fields, (self.blocks,))]
        if blocks:
            yield from messages_of([{"role": "assistant", "content": blocks}])[0].parts


def _fields(document: object) -> Json | None:
    return cast("Json", document) if isinstance(document, dict) else decoded(document)


# Source: that of the row in `llama_token_tracker.wire.operations` that names the dialect.

CHAT: Final = Dialect(
    answer={
        "choices[].message.reasoning_content": Thinking,
        "choices[].message.content": Text,
        "choices[].message.content[].text": Text,
        "choices[].message.tool_calls[].function.arguments": Text,
        "choices[].delta.reasoning_content": Thinking,
        "choices[].delta.content": Text,
        "choices[].delta.content[].text": Text,
        "choices[].delta.tool_calls[].function.arguments": Text,
    },
    finishes=("choices[].finish_reason",),
)
# Source: docs.x.ai, "Deferred Chat Completions" (checked 2026-11-29).
XAI_CHAT: Final = replace(
    CHAT,
    deferral=Deferral(
        place="{folder}/deferred-completion/{id}",
        status="object",
        waits=frozenset((None,)),
        ends={"chat.completion": "complete"},
        id="request_id",
    ),
)
PERPLEXITY_ASYNC: Final = Dialect(
    answer={
        "response.choices[].message.reasoning_content": Thinking,
        "response.choices[].message.content": Text,
    },
    messages="request.messages",
    model="request.model",
    limits=("request.max_tokens",),
    usage=("response",),
    deferral=Deferral(
        place="{path}/{id}",
        status="status",
        waits=frozenset(("CREATED", "IN_PROGRESS")),
        ends={"COMPLETED": "complete", "FAILED": "failed"},
    ),
)
COMPLETIONS: Final = Dialect(
    answer={
        "choices[].text": Text,
        "choices[].message.content": Text,
        "choices[].delta.content": Text,
    },
    messages="",
    prompts=("prompt[]",),
    finishes=("choices[].finish_reason",),
)
# The whole answer's entries, and the events of a stream, of which each is a part of one. Only those
# in a stream's midst name the model.
CONVERSATIONS: Final = Dialect(
    answer={
        "outputs[].content": Text,
        "outputs[].content[].text": Text,
        "outputs[].arguments": Text,
        "content": Text,
        "content.text": Text,
        "arguments": Text,
    },
    messages="inputs",
    system="instructions",
    limits=("completion_args.max_tokens",),
    hint=b"",
    ends={
        ("type", "conversation.response.done"): "complete",
        ("type", "conversation.response.error"): "failed",
    },
)
RESPONSES: Final = Dialect(
    answer={"output[].content[].text": Text, "output[].arguments": Text, "delta": Text},
    messages="input",
    system="instructions",
    ends={
        ("type", "response.completed"): "complete",
        ("type", "response.incomplete"): "complete",
        ("type", "response.failed"): "failed",
        ("type", "error"): "failed",
    },
    deferral=Deferral(
        place="{path}/{id}",
        status="status",
        waits=frozenset(("queued", "in_progress")),
        ends={
            "completed": "complete",
            "incomplete": "complete",
            "failed": "failed",
            "cancelled": "abandoned",
        },
    ),
)
EMBEDDINGS: Final = Dialect(texts=("input[]",))
MESSAGES: Final = Dialect(
    answer={
        "content[].thinking": Thinking,
        "content[].text": Text,
        "delta.thinking": Thinking,
        "delta.text": Text,
        "delta.partial_json": Text,
    },
    system="system[]",
    ends={("type", "message_stop"): "complete", ("type", "error"): "failed"},
)
COHERE_CHAT: Final = Dialect(
    answer={
        "message.content[].text": Text,
        "message.tool_calls[].function.arguments": Text,
        "delta.message.content[].text": Text,
        "delta.message.tool_calls[].function.arguments": Text,
    },
    ends={("type", "message-end"): "complete"},
)
COHERE_V1_CHAT: Final = Dialect(
    answer={"text": Text},
    messages="chat_history",
    content="message",
    system="preamble",
    last="message",
    usage=("meta",),
    ends={("is_finished", True): "complete"},
)
COHERE_GENERATE: Final = Dialect(
    answer={"generations[].text": Text, "text": Text},
    messages="",
    prompts=("prompt",),
    usage=("meta",),
    ends={("is_finished", True): "complete"},
)
IMAGES: Final = Dialect(messages="", prompts=("prompt",))
TRANSCRIPTIONS: Final = Dialect(answer={"text": Text, "delta": Text}, messages="")
SPEECH: Final = Dialect(messages="", prompts=("input",), characters="input")
COHERE_RERANK: Final = Dialect(messages="", prompts=("query",), usage=("meta",))
COHERE_EMBED: Final = Dialect(texts=("texts[]", "inputs[].content[].text"), usage=("meta",))
GEMINI: Final = Dialect(
    answer={"candidates[].content.parts[].text": Text},
    messages="contents",
    content="parts",
    system="systemInstruction.parts[]",
    usage=("usageMetadata",),
    finishes=("candidates[].finishReason", "promptFeedback.blockReason"),
)
GEMINI_EMBED: Final = Dialect(
    texts=("content.parts[].text", "requests[].content.parts[].text"), usage=("usageMetadata",)
)
OLLAMA_CHAT: Final = Dialect(
    answer={"message.thinking": Thinking, "message.content": Text},
    usage=("prompt_eval_count", "eval_count"),
    hint=b"eval_count",
    ends={("done", True): "complete"},
)
OLLAMA_GENERATE: Final = Dialect(
    answer={"thinking": Thinking, "response": Text},
    messages="",
    prompts=("prompt",),
    usage=("prompt_eval_count", "eval_count"),
    hint=b"eval_count",
    ends={("done", True): "complete"},
)
OLLAMA_EMBED: Final = Dialect(
    texts=("input[]", "prompt"), usage=("prompt_eval_count",), hint=b"eval_count"
)

# --- Bedrock -------------------------------------------------------------------------------

# Each vendor has a body of its own, and which it is only the model's id tells: so these are the
# places of all of them. Source: Amazon Bedrock user guide, "Inference request parameters and
# response fields for foundation models" (checked 2026-11-22).
_VENDORS_ANSWERS: Final[dict[str, Kind]] = {
    "content[].text": Text,
    "content[].thinking": Thinking,
    "delta.text": Text,
    "delta.thinking": Thinking,
    "delta.partial_json": Text,
    "completion": Text,
    "completions[].data.text": Text,
    "results[].outputText": Text,
    "outputText": Text,
    "generation": Text,
    "generations[].text": Text,
    "outputs[].text": Text,
    "text": Text,
    "choices[].message.content": Text,
    "choices[].delta.content": Text,
    "choices[].text": Text,
}
# Source: API reference, ConverseStreamOutput (checked 2026-11-22). Nova's own stream has the same.
_DELTA: Final[dict[str, Kind]] = {
    "delta.text": Text,
    "delta.reasoningContent.text": Thinking,
    "delta.toolUse.input": Text,
}
_DELTAS: Final = {f"contentBlockDelta.{path}": kind for path, kind in _DELTA.items()}
_NOVA_ANSWERS: Final[dict[str, Kind]] = {
    "output.message.content[].text": Text,
    "output.message.content[].reasoningContent.reasoningText.text": Thinking,
}

# The events of its stream are read as botocore names them, and as they are on the wire.
CONVERSE: Final = Dialect(
    answer=_DELTAS | _DELTA,
    system="system[]",
    tools=("toolConfig",),
    finishes=("metadata", "metrics", "usage"),
    blocks="output.message.content[]",
)
INVOKE: Final = Dialect(
    answer=_NOVA_ANSWERS | _DELTAS | _VENDORS_ANSWERS,
    system="system[]",
    # Claude 2, Llama, Mistral; Titan; Cohere.
    prompts=("prompt", "inputText", "message"),
    # Titan; Cohere's v3 and v4; Nova and Marengo.
    texts=("inputText", "texts[]", "inputs[]", "inputs[].content[].text", "text"),
    tools=("toolConfig", "tools"),
    pieces="bytes",
)
INVOKE_STREAM: Final = replace(
    INVOKE,
    ends={("type", "message_stop"): "complete", ("type", "error"): "failed"},
    # The first is Bedrock's own, whatever the model; a vendor's own words come without it, too:
    # Nova; Llama and Claude 2; Titan; Cohere; Mistral, and who speaks as OpenAI.
    finishes=(
        "amazon-bedrock-invocationMetrics",
        "metadata",
        "stop_reason",
        "completionReason",
        "is_finished",
        "outputs[].stop_reason",
        "choices[].finish_reason",
    ),
    pieces="documents",
)


def asks_to_embed(body: object) -> bool:
    """Whether the body of a request of InvokeModel asks for embeddings."""
    fields = decoded(body) or {}
    return "texts" in fields or ("inputText" in fields and "textGenerationConfig" not in fields)
