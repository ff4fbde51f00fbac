"""What Bedrock's requests and answers hold: Converse's, and each vendor's own through InvokeModel.

Only what an event shows, or a tokenizer counts where Bedrock is silent, is read here.
"""

from collections.abc import Sequence
from typing import Any, Final, cast

from llama_token_tracker.extraction import extract_usage
from llama_token_tracker.extraction.messages import messages_of
from llama_token_tracker.extraction.parts import Message, Part, Text, Thinking
from llama_token_tracker.tokenizers.estimate import stated_output
from llama_token_tracker.wire.bodies import Json, Said, at, decoded, joined, path, said
from llama_token_tracker.wire.exchange import Answered, Asked

_PROMPTS: Final = ("prompt", "inputText", "message")
"""Where vendors put a prompt that is one text: Claude 2, Llama, Mistral; Titan; Cohere."""

_EMBEDDED: Final = ("inputText", "texts", "inputs", "inputs.content.text", "text")
"""Where they put texts to embed: Titan, Cohere's v3 and v4, Nova and Marengo."""

_SAID: Final[dict[str, type[Text] | type[Thinking]]] = {
    "output.message.content.text": Text,
    "output.message.content.reasoningContent.reasoningText.text": Thinking,
    "contentBlockDelta.delta.text": Text,
    "contentBlockDelta.delta.reasoningContent.text": Thinking,
    "contentBlockDelta.delta.toolUse.input": Text,
    "content.text": Text,
    "content.thinking": Thinking,
    "delta.text": Text,
    "delta.thinking": Thinking,
    "delta.partial_json": Text,
    "completion": Text,
    "completions.data.text": Text,
    "results.outputText": Text,
    "outputText": Text,
    "generation": Text,
    "generations.text": Text,
    "outputs.text": Text,
    "text": Text,
    "choices.message.content": Text,
    "choices.delta.content": Text,
    "choices.text": Text,
}
"""Where answers and the chunks of their streams hold what the model said; lists are walked through.

Source:
    Amazon Bedrock user guide, "Inference request parameters and response fields for foundation
    models"; API reference, ConverseOutput and ConverseStreamOutput (checked 2026-11-22).
"""

_PATHS: Final[Said] = {path(place): kind for place, kind in _SAID.items()}
_EMBEDDED_PATHS: Final = tuple(map(path, _EMBEDDED))


def asked(body: object) -> Asked:
    """Read a request's body, as it is sent."""
    fields = decoded(body)
    if fields is None:
        return Asked()
    texts = tuple(text for place in _EMBEDDED_PATHS for text in at(fields, place))
    tools = fields.get("toolConfig") or fields.get("tools")
    return Asked(_prompt(fields), tools, texts, stated_output(fields))


def _prompt(fields: Json) -> str | tuple[Message, ...]:
    messages: Any = fields.get("messages")
    if not isinstance(messages, list):
        texts = (fields.get(name) for name in _PROMPTS)
        return next((text for text in texts if isinstance(text, str)), "")
    system: Any = fields.get("system")
    before = [{"role": "system", "content": system}] if system else []
    return messages_of([*before, *cast("list[object]", messages)])


class Bodies:
    """How answers are read that come as bytes: those of InvokeModel, whole or in chunks."""

    def asked(self, body: object) -> Asked:
        """Read a request."""
        return asked(body)

    def answered(self, pieces: Sequence[Any]) -> Answered:
        """Read the bytes of a body, in the pieces in which they were read."""
        fields = decoded(b"".join(pieces))
        if fields is None:
            return Answered()
        return Answered(said([fields], _PATHS), extract_usage(fields))


class Chunks(Bodies):
    """The same of a stream of theirs, of which each chunk is a document."""

    def answered(self, pieces: Sequence[Any]) -> Answered:
        """Read chunks."""
        return Answered(said([fields for chunk in pieces if (fields := decoded(chunk))], _PATHS))


class Converse(Bodies):
    """The same of Converse, whose answers come decoded: as blocks, or as events of a stream."""

    def answered(self, pieces: Sequence[Any]) -> Answered:
        """Read blocks of a message, or events that hold deltas of some."""
        return Answered(joined(part for piece in pieces for part in _block_parts(piece)))


def _block_parts(piece: Json) -> tuple[Part, ...]:
    if "contentBlockDelta" in piece:
        return said([piece], _PATHS)
    return messages_of([{"role": "assistant", "content": [piece]}])[0].parts


BODIES: Final = Bodies()
CHUNKS: Final = Chunks()
CONVERSE: Final = Converse()


def embeds(body: object) -> bool:
    """Whether the request's body, as InvokeModel sends it, asks to embed."""
    fields = decoded(body) or {}
    return "texts" in fields or ("inputText" in fields and "textGenerationConfig" not in fields)
