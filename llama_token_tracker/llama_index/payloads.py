"""What the payloads of LlamaIndex's callback events say of a call."""

import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from llama_index.core.constants import DEFAULT_NUM_OUTPUTS
from llama_index.core.prompts import BasePromptTemplate

from llama_token_tracker._names import AZURE_OPENAI, PROVIDERS, at_url
from llama_token_tracker.events.transcripts import PartsTranscript, PlainTranscript, Transcript
from llama_token_tracker.extraction.messages import answer_of, messages_of
from llama_token_tracker.extraction.parts import Message
from llama_token_tracker.extraction.texts import plain_words, prompt_text, response_text
from llama_token_tracker.tokenizers.estimate import expected_input, expected_texts, stated_output

# Asked of a thing's type, since the thing itself may raise even when asked for its class; and in a
# tuple, as type checkers would take what they can't know of its contents for a mistake.
DICTS: Final = (dict,)
LISTS: Final = (list,)
_LONGEST_PATH: Final = 4096
_URLS: Final = ("api_base", "base_url")
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
    url = next((about[key] for key in _URLS if about.get(key)), None)
    return named if named == AZURE_OPENAI else at_url(url, named), model


def tools_of(options: object) -> object:
    """The tools that were passed to a call, in whatever form."""
    return cast("dict[str, Any]", options).get("tools") if type(options) in DICTS else None


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
    sent = expected_input(prompt, tools_of(options))
    return sent, stated_output(options, about, _settings(about))


def _settings(about: Any) -> dict[str, Any]:
    """What a model's settings say of its output, in the words that most providers use."""
    output: Any = about.get("num_output") if type(about) in DICTS else None
    # LlamaIndex's default stands for "not stated".
    return {} if output == DEFAULT_NUM_OUTPUTS else {"max_tokens": output}


def users_tags(tags: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tags that users gave by `instrument_tags`.

    Those that LlamaIndex's workflows add for themselves are left out: they are new with each
    run, and hold the text of prompts.
    """
    return {name: value for name, value in tags.items() if not str(name).startswith(_OWN_TAGS)}


def transcript_of(
    prompt: object, response: object, options: object, *, keeps_text: bool, is_reported: bool
) -> Transcript:
    """What was sent and what came back, in whatever form.

    Args:
        prompt: What was asked.
        response: What came back; of an unfinished stream its last chunk.
        options: What else was passed to the call.
        keeps_text: Whether the event shows it.
        is_reported: Whether the provider has said all, so that nothing is to be counted.
    """
    words = plain_words(prompt, response)
    if words is not None:
        return PlainTranscript(words, keeps_text, tools_of(options))
    printed = (prompt_text(prompt), response_text(response)) if keeps_text else ("", "")
    if is_reported:
        return PartsTranscript(printed)
    return PartsTranscript(
        printed,
        _countable(prompt),
        () if response is None else answer_of(response),
        tools_of(options),
    )


def _countable(prompt: object) -> str | tuple[Message, ...] | None:
    if prompt is None:
        return None
    if type(prompt) is tuple:
        return messages_of(cast("tuple[object, ...]", prompt))
    return prompt_text(prompt)


def formatted(prompt: object) -> object:
    """The prompt of a structured call: its template with everything put in."""
    if not isinstance(prompt, dict):
        return prompt
    arguments = cast("dict[str, Any]", prompt)
    template, values = arguments.get("prompt"), arguments.get("prompt_args", {})
    if not isinstance(template, BasePromptTemplate):
        return None
    return tuple(template.format_messages(**values))


def is_image(chunk: object) -> bool:
    """Whether an embedded thing is no text, but an image or the name of its file."""
    if not issubclass(type(chunk), str):
        return True
    text = cast("str", chunk)
    kind = mimetypes.guess_type(text)[0] if len(text) < _LONGEST_PATH else None
    return kind is not None and kind.startswith("image/") and Path(text).is_file()
