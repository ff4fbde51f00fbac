"""What the payloads of LlamaIndex's callback events say of a call."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks.schema import EventPayload
from llama_index.core.constants import DEFAULT_NUM_OUTPUTS
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate, PromptTemplate

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import AZURE_OPENAI, PROVIDERS, at_url
from llama_token_tracker._printable import exact, is_text
from llama_token_tracker.events.transcripts import PartsTranscript, PlainTranscript, Transcript
from llama_token_tracker.extraction import Reported
from llama_token_tracker.extraction.messages import answer_of, messages_of
from llama_token_tracker.extraction.parts import Message, Opaque
from llama_token_tracker.extraction.texts import plain_words, prompt_text, response_text
from llama_token_tracker.tokenizers.estimate import expected_input, expected_texts, stated_output
from llama_token_tracker.tokenizers.request_fields import NONE, kept, tools_in

# Asked of a thing's type, since the thing itself may raise even when asked for its class; and in a
# tuple, as type checkers would take what they can't know of its contents for a mistake.
DICTS: Final = (dict,)
LISTS: Final = (list,)
_IMAGES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".svg", ".tif", ".tiff", ".webp")
_TEMPLATES: Final = (PromptTemplate, ChatPromptTemplate)
_VALUES: Final = (str, int, float, bool)
_READABLE: Final = (*_VALUES, ChatMessage)
_OWN_TAGS: Final = "llamaindex."


def provider_and_model(about: Any) -> tuple[str | None, str | None]:
    """The provider's name and the model's id, as far as the start event told them."""
    if type(about) not in DICTS:
        return None, None
    model: Any = about.get("model_name")
    if type(model) is not str or not model:
        model = about.get("model")
    if type(model) is not str or not model or model == "unknown":
        model = None
    name: Any = about.get("class_name")
    named = PROVIDERS.get(name) if type(name) is str else None
    # Azure's has a base of OpenAI's besides its own endpoint.
    url: Any = about.get("api_base") or about.get("base_url")
    return named if named == AZURE_OPENAI else at_url(url, named), model


def start_of(model: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with which a callback would tell of the start of a call.

    Args:
        model: The model that is asked.
        arguments: What its method was given.
    """
    options = {**arguments, **arguments.get("kwargs", {})}
    options.pop("kwargs", None)
    prompt: Any = next(iter(options.pop("args", ())), None)
    return {
        EventPayload.MESSAGES: options.pop("messages", None),
        EventPayload.PROMPT: options.pop("prompt", prompt),
        EventPayload.ADDITIONAL_KWARGS: options,
        EventPayload.SERIALIZED: serialized(model),
    }


def serialized(model: Any) -> Any:
    """What LlamaIndex tells callbacks of a model, as far as it can be read."""
    try:
        # Older versions know no `to_payload`.
        return (getattr(model, "to_payload", None) or model.to_dict)()
    except Exception as error:  # noqa: BLE001 - a model's settings are users' code
        notice("a model's settings could not be read", error, "its call is counted without them")
        return None


def options_of(options: Any) -> Mapping[str, Any]:
    """What was passed to a call beside the prompt, as far as a count depends on it."""
    return kept(options) if type(options) in DICTS and options else NONE


def expected_tokens(
    prompt: object,
    options: object,
    about: object,
    texts: list[str] | None,
    served: frozenset[str] | None,
) -> tuple[int, int | None]:
    """How many tokens a call will send and may get back, roughly; the latter `None` if unstated.

    Args:
        prompt: What is asked.
        options: What else is passed to the call.
        about: What LlamaIndex says of its model.
        texts: What it embeds; `None` if it embeds nothing.
        served: Which of these a cache will serve.
    """
    if texts is not None:
        return expected_texts(text for text in texts if text not in (served or ())), 0
    sent = expected_input(prompt, tools_in(options_of(options)))
    return sent, stated_output(options, about, _settings(about))


def _settings(about: Any) -> dict[str, Any]:
    """What a model's settings say of its output, in the words that most providers use."""
    output: Any = about.get("num_output") if type(about) in DICTS else None
    # LlamaIndex's default stands for "not stated".
    is_default = type(output) is int and output == DEFAULT_NUM_OUTPUTS
    return {} if output is None or is_default else {"max_tokens": output}


def users_tags(tags: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tags that users gave by `instrument_tags`.

    Those that LlamaIndex's workflows add for themselves are left out: they are new with each
    run, and hold the text of prompts.
    """
    return {name: value for name, value in tags.items() if not str(name).startswith(_OWN_TAGS)}


def transcript_of(
    prompt: object, response: object, options: object, *, keeps_text: bool, reported: Reported
) -> Transcript:
    """What was sent and what came back, in whatever form.

    Args:
        prompt: What was asked.
        response: What came back; of an unfinished stream its last chunk.
        options: What else was passed to the call.
        keeps_text: Whether the event shows it.
        reported: What the provider said; if that's all, nothing is to be counted.
    """
    words = plain_words(prompt, response)
    if words is not None:
        return PlainTranscript(words, keeps_text, options_of(options))
    printed = (prompt_text(prompt), response_text(response)) if keeps_text else ("", "")
    if reported.covers_call:
        return PartsTranscript(printed)
    return PartsTranscript(
        printed,
        _countable(prompt),
        () if response is None else answer_of(response),
        options_of(options),
    )


class StructuredPrompt(tuple[Any, ...]):
    """The messages of a structured call, with which a schema goes along that isn't known here."""

    __slots__ = ()


def _countable(prompt: object) -> str | tuple[Message, ...] | None:
    if prompt is None:
        return None
    if type(prompt) is StructuredPrompt:
        *before, last = messages_of(prompt)
        return (*before, replace(last, parts=(*last.parts, Opaque("the schema of an answer"))))
    if type(prompt) is tuple:
        return messages_of(cast("tuple[object, ...]", prompt))
    return prompt_text(prompt)


def formatted(arguments: object) -> StructuredPrompt | None:
    """The prompt of a structured call, as far as that can be told without running users' code.

    Args:
        arguments: Those of the method: its template, and what was put in.
    """
    given: Any = arguments if type(arguments) in DICTS else {}
    template: Any = given.get("prompt")
    values = cast("dict[str, Any]", given.get("prompt_args", {}))
    if not issubclass(type(template), BasePromptTemplate):
        return None
    if _is_plain(template, values):
        return StructuredPrompt(template.format_messages(**values)) or None
    fields = cast("dict[str, Any]", template.__dict__)
    texts: list[object] = [fields.get("template"), fields.get("template_str")]
    texts += [*fields.get("message_templates", ()), *fields["kwargs"].values(), *values.values()]
    shown = [prompt_text(text) for text in texts if type(text) in _READABLE]
    return StructuredPrompt([ChatMessage("\n".join(shown))])


def _is_plain(template: Any, values: dict[str, Any]) -> bool:
    """Whether putting values into a template runs no code but LlamaIndex's."""
    if type(template) not in _TEMPLATES or template.function_mappings or template.output_parser:
        return False
    return all(type(value) in _VALUES for value in (*template.kwargs.values(), *values.values()))


def is_image(chunk: object) -> bool:
    """Whether what no method for texts has embedded is an image, or the name of its file.

    By its name alone: nobody looks into the file system because of what a text says.
    """
    if not is_text(chunk):
        return True
    return exact(chunk).lower().endswith(_IMAGES) and "\n" not in exact(chunk)
