"""Names of providers and models: in one place, and consistent there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_token_tracker import _names

PACKAGE = Path(_names.__file__).parent
NAMES = {
    *_names.PROVIDERS.values(),
    *_names.LANGCHAIN_PROVIDERS.values(),
    *_names.HOSTS.values(),
    *_names.HOSTS,
    *_names.LISTED_PROVIDERS,
    *_names.BEDROCK_VENDORS,
    _names.BEDROCK_SERVICE,
    "aws",
    "apac",
    "global",
} - {"meta", "together"}  # also a field of many an object, and a function
NAMED = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, sorted(NAMES)))})(?![\w-])")

ELSEWHERE = {
    "cli/demo.py": "names of LlamaIndex's modules, and of this package's extras",
    "extraction/reported.py": "the name of a table",
    "extraction/shapes": "each table names its provider's API, for people",
    "testing": "a provider of its own, that knows no other room",
    "tokenizers/message_rules.py": "whose rules apply: a family of models, no provider",
    "tokenizers/models.py": "the same",
    "wire/operations.py": "paths of requests, which are no names",
}


def texts(tree: ast.AST) -> Iterator[str]:
    """The literal texts of a module that are no prose and no link."""
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and " " not in text and not text.startswith("https:"):
            yield text


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_names_of_providers_stand_in_one_module(path: Path):
    """Whoever adds one knows where."""
    file = path.relative_to(PACKAGE).as_posix()
    if file == "_names.py" or any(file.startswith(allowed) for allowed in ELSEWHERE):
        return
    found = [text for text in texts(ast.parse(path.read_text("utf-8"))) if NAMED.search(text)]
    assert not found, f"name {found} in _names.py"


@pytest.mark.parametrize(
    ("model", "bare"),
    [
        ("anthropic.claude-3-haiku-20240307-v1:0", "anthropic.claude-3-haiku-20240307-v1:0"),
        ("us.anthropic.claude-sonnet-4-v1:0", "anthropic.claude-sonnet-4-v1:0"),
        ("us-gov.amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0"),
        (
            "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.meta.llama3-1-v1:0",
            "meta.llama3-1-v1:0",
        ),
        ("arn:aws:bedrock:us-east-1::foundation-model/amazon.titan-v1", "amazon.titan-v1"),
        ("zai.glm-4.7", "zai.glm-4.7"),
        ("claude-sonnet-4", "claude-sonnet-4"),
        (
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc123",
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc123",
        ),
    ],
)
def test_a_bedrock_id_is_bare_without_arn_and_geography(model: str, bare: str):
    """What names no model stays as it is."""
    assert _names.bare_bedrock_id(model) == bare
