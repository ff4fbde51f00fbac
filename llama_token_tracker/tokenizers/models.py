"""A model's provider, version and encoding, from any of its names.

The same model goes by many names: bare, under a publisher's path, as a Bedrock
id with or without geo prefix and revision, as an ARN, as a Vertex id with `@`.
A name is brought to its bare form by the steps below, one after another.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from llama_token_tracker._lock import LOADING
from llama_token_tracker._names import (
    ARN,
    CLAUDE,
    CLAUDE_INSTANT,
    CLAUDE_VERSION,
    GEOGRAPHY,
    OPENAI_PATHS,
    PUBLISHER,
)

Provider: TypeAlias = Literal["openai", "claude", "other"]

# Source: that of `model_ids`; the Vertex AI page of Anthropic's documentation;
# LiteLLM's and OpenRouter's names (checked 2026-11-22).
_STEPS: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (ARN, ""),
        # A publisher's or router's path; for OpenAI's names see `identify`.
        (r"^.*/", ""),
        (GEOGRAPHY, ""),
        (PUBLISHER, ""),
        # A Bedrock revision: -v1:0, -v1:0:28k. `claude-v2:1` is a version.
        (r"(?<!claude)(?<!instant)-v\d+:\d+(?::\d+k)?$", ""),
        (r"[@\s_]", "-"),
        (r":", "."),
    )
)


@dataclass(frozen=True, slots=True)
class Model:
    """A model, by its bare name.

    Attributes:
        name: The bare name, in lower case.
        provider: Whose rules apply.
        encoding: tiktoken's encoding of an OpenAI model.
        version: A Claude model's major and minor version, if its name says so.
        is_legacy: Whether it is Claude 1, 2 or instant.
    """

    name: str
    provider: Provider
    encoding: str | None = None
    version: tuple[int, int] | None = None
    is_legacy: bool = False


@lru_cache(maxsize=1024)
def identify(model: str) -> Model:
    """Tell which model a name means.

    Args:
        model: A name as it is given to LlamaIndex, a provider or a router.

    Returns:
        The model; `provider="other"` when no table knows it.
    """
    given = model.strip().lower()
    bare = given
    for pattern, replacement in _STEPS:
        bare = pattern.sub(replacement, bare)
    if bare.startswith(CLAUDE):
        return _claude(bare)
    path = given[: given.rfind("/") + 1]
    if not path or OPENAI_PATHS.match(path):
        # A fine-tune's name has colons of its own: ft:gpt-4o:org::id.
        name = given if given.startswith("ft:") else bare
        encoding = _openai_encoding(name)
        if encoding is not None:
            return Model(name, "openai", encoding=encoding)
    return Model(bare, "other")


def _claude(bare: str) -> Model:
    match = CLAUDE_VERSION.match(bare)
    if match is None:
        return Model(bare, "claude", is_legacy=bare.startswith(CLAUDE_INSTANT))
    version = (int(match["major"]), int(match["minor"] or 0))
    is_legacy = match["tier"] == "instant" or version < (3, 0)
    return Model(bare, "claude", version=version, is_legacy=is_legacy)


def _openai_encoding(name: str) -> str | None:
    with LOADING:
        from tiktoken.model import encoding_name_for_model

    try:
        return encoding_name_for_model(name)
    except KeyError:
        return None
