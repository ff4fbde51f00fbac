"""A model's name gives its own tokenizer, or a stand-in that says so."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.errors import TokenizerError
from llama_token_tracker.tokenizers import Tokenizer, count_tokens, get_tokenizer
from tests.needs import left_out_if


@pytest.mark.parametrize(
    ("model", "name", "source"),
    [
        ("gpt-4o", "o200k_base", "counted"),
        ("gpt-3.5-turbo", "cl100k_base", "counted"),
        ("text-embedding-3-small", "cl100k_base", "counted"),
        ("openai.gpt-oss-20b-1:0", "o200k_base", "counted"),
        ("anthropic.claude-v2:1", "claude_65k", "counted"),
        ("mistral-large-latest", "cl100k_base", "estimated"),
    ],
)
def test_each_tokenizer_says_what_it_is(model: str, name: str, source: str) -> None:
    """Name and standing are known before anything is counted."""
    tokenizer = get_tokenizer(model)

    assert (tokenizer.name, tokenizer.source) == (name, source)
    assert isinstance(tokenizer, Tokenizer)


@left_out_if(sys.version_info < (3, 12), "ctok needs Python 3.12")
def test_claude_has_its_own_tokenizer_from_python_3_12_on() -> None:
    """Claude 3 and later are counted by ctok, by version."""
    for model, name in (
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "ctok-4.0"),
        ("claude-opus-4-8", "ctok-4.8"),
    ):
        tokenizer = get_tokenizer(model)
        assert (tokenizer.name, tokenizer.source) == (name, "counted")


@left_out_if(sys.version_info >= (3, 12), "ctok is there from Python 3.12 on")
def test_claude_has_a_stand_in_before_python_3_12() -> None:
    """Claude 3 and later are estimated, marked, with a hint that comes once."""
    script = (
        "import logging, sys; \n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "from llama_token_tracker.tokenizers import get_tokenizer\n"
        "for m in ('claude-3-opus', 'claude-opus-4-8'): print(get_tokenizer(m).source)\n"
    )
    output = _run(script)
    assert output.count("estimated\n") == 2
    assert output.count("Python 3.12") == 1


def test_a_stand_in_is_logged_once_for_each_model(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The choice of a stand-in is told, but not again and again."""
    for _ in range(3):
        get_tokenizer("a-model-of-no-table-1")
        get_tokenizer("a-model-of-no-table-2")

    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert "'a-model-of-no-table-1'" in told[0]
    assert "cl100k_base" in told[0]


def test_a_text_and_a_list_of_texts_are_counted() -> None:
    """One text gives a figure, a list gives a list."""
    assert count_tokens("Hello, world!", model="gpt-4") == 4
    assert count_tokens(["Hello, world!", ""], model="gpt-4") == [4, 0]


def test_models_with_one_encoding_share_their_counts() -> None:
    """Equal texts of such models are counted once."""
    first, second = get_tokenizer("gpt-4o"), get_tokenizer("gpt-4.1-mini")

    assert first.memo is second.memo


@pytest.mark.parametrize("model", [None, 4, b"gpt-4o"])
def test_a_model_is_named_by_a_string(model: object) -> None:
    """Anything else is refused, with an example."""
    with pytest.raises(TokenizerError, match="gpt-4o"):
        get_tokenizer(model)  # type: ignore[arg-type]


@given(st.text(max_size=10), st.lists(st.text(st.characters())))
def test_no_content_raises(model: str, texts: list[str]) -> None:
    """Any text is counted for any model, the same one by one and in a list."""
    tokenizer = get_tokenizer(model)

    counts = tokenizer.count_many(texts)
    assert counts == [tokenizer.count(text) for text in texts]
    assert all((count > 0) == bool(text) for text, count in zip(texts, counts, strict=True))


def _run(script: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout


def test_counting_starts_nothing_and_imports_no_framework() -> None:
    """No thread, no socket, no event loop, no llama_index; the environment stays."""
    output = _run(
        """
import json, os, pathlib, sys, threading
import llama_token_tracker.tokenizers as tokenizers
from llama_token_tracker.extraction import parts
heavy = [m for m in ("llama_index", "tiktoken", "ctok", "numpy") if m in sys.modules]
before = dict(os.environ)
events = []
watched = ("socket", "_thread", "urllib", "subprocess", "os.fork")
sys.addaudithook(lambda name, _: name.startswith(watched) and events.append(name))
tasks = pathlib.Path("/proc/self/task")
for model in ("gpt-4o", "gpt-4", "claude-2", "claude-opus-4-8", "llama"):
    tokenizers.count_tokens(["Hello, world! " * 500] * 50, model=model)
    tokenizers.count_messages(
        [parts.Message("user", (parts.Image(), parts.Text("Hi")))],
        model=model,
    )
print(json.dumps({
    "heavy": heavy,
    "events": events,
    "threads": threading.active_count(),
    "tasks": len(list(tasks.iterdir())) if tasks.exists() else 1,
    "llama_index": "llama_index" in sys.modules,
    "asyncio": "asyncio" in sys.modules,
    "environment": before == dict(os.environ),
}))
"""
    )
    assert json.loads(output.splitlines()[-1]) == {
        "heavy": [],
        "events": [],
        "threads": 1,
        "tasks": 1,
        "llama_index": False,
        "asyncio": False,
        "environment": True,
    }
