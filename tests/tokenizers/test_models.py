"""A model is known by any of its names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.tokenizers.models import identify

_ARN = "arn:aws:bedrock:us-east-1"


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("claude-3-haiku-20240307", (3, 0)),
        ("claude-3-5-sonnet-20240620", (3, 5)),
        ("claude-3-7-sonnet-latest", (3, 7)),
        ("claude-sonnet-4-20250514", (4, 0)),
        ("claude-opus-4-1-20250805", (4, 1)),
        ("claude-opus-4-7", (4, 7)),
        ("claude-sonnet-5", (5, 0)),
        ("claude-opus-5-5", (5, 5)),
        ("claude-fable-5-1", (5, 1)),
        ("anthropic/claude-opus-4.7", (4, 7)),
        ("openrouter/anthropic/claude-3.5-haiku", (3, 5)),
        ("anthropic.claude-3-sonnet-20240229-v1:0", (3, 0)),
        ("anthropic.claude-3-sonnet-20240229-v1:0:28k", (3, 0)),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", (3, 5)),
        ("anthropic.claude-opus-4-6-v1", (4, 6)),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", (4, 0)),
        ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", (4, 5)),
        ("apac.anthropic.claude-3-5-sonnet-20241022-v2:0", (3, 5)),
        ("jp.anthropic.claude-sonnet-4-5-20250929-v1:0", (4, 5)),
        ("global.anthropic.claude-opus-4-8", (4, 8)),
        ("us-gov.anthropic.claude-3-7-sonnet-20250219-v1:0", (3, 7)),
        ("bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0", (4, 0)),
        (f"{_ARN}::foundation-model/anthropic.claude-3-haiku-20240307-v1:0", (3, 0)),
        (
            f"{_ARN}:123456789012:inference-profile/us.anthropic.claude-opus-4-7-v1:0",
            (4, 7),
        ),
        ("claude-3-5-sonnet@20240620", (3, 5)),
        ("claude-3-5-sonnet-v2@20241022", (3, 5)),
        ("claude-opus-4@default", (4, 0)),
        ("publishers/anthropic/models/claude-haiku-4-5@20251001", (4, 5)),
        ("Claude 3.5 Sonnet", (3, 5)),
        (" CLAUDE-OPUS-4-7 ", (4, 7)),
    ],
)
def test_claude_3_and_later_by_any_name(name: str, version: tuple[int, int]) -> None:
    """The version is read from ids, ARNs and display names alike."""
    model = identify(name)

    assert (model.provider, model.version, model.is_legacy) == ("claude", version, False)


@pytest.mark.parametrize(
    "name",
    [
        "claude-2",
        "claude-2.1",
        "claude-1.3-100k",
        "claude-v1",
        "claude-instant-1.2",
        "claude-instant-v1-100k",
        "claude-instant",
        "anthropic.claude-v2",
        "anthropic.claude-v2:1",
        "anthropic.claude-v2:1:200k",
        "anthropic.claude-instant-v1",
        "anthropic.claude-instant-v1:2:100k",
        f"{_ARN}::foundation-model/anthropic.claude-v2:1",
    ],
)
def test_claude_1_2_and_instant_by_any_name(name: str) -> None:
    """The old models are told from the new ones."""
    model = identify(name)

    assert (model.provider, model.is_legacy) == ("claude", True)


def test_a_claude_without_a_version_is_still_claude() -> None:
    """A name that says no version says at least whose it is."""
    model = identify("claude-mythos-preview")

    assert (model.provider, model.version, model.is_legacy) == ("claude", None, False)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-5.5", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-35-turbo-16k", "cl100k_base"),
        ("azure/gpt-35-turbo", "cl100k_base"),
        ("openrouter/openai/gpt-4o", "o200k_base"),
        ("openai.gpt-oss-120b-1:0", "o200k_harmony"),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "o200k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("text-embedding-ada-002", "cl100k_base"),
        ("text-davinci-003", "p50k_base"),
    ],
)
def test_openai_models_have_tiktokens_encoding(name: str, encoding: str) -> None:
    """OpenAI's and Azure's names map as tiktoken maps them."""
    model = identify(name)

    assert (model.provider, model.encoding) == ("openai", encoding)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "meta.llama3-70b-instruct-v1:0",
        "mistral-large-latest",
        "someone/gpt-4-x-alpaca",
        f"{_ARN}:123456789012:application-inference-profile/a1b2c3d4",
        "amazon.titan-embed-text-v2:0",
        "gemini-2.5-pro",
    ],
)
def test_other_models_are_nobodys(name: str) -> None:
    """What no table knows is not guessed at."""
    assert identify(name).provider == "other"


@given(st.text())
def test_no_name_raises(name: str) -> None:
    """Any string is a name, even if of no known model."""
    identify(name)
