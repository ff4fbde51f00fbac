"""Tests use the package as its users do: names that begin with `_` are its own business."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "llama_token_tracker"
ALLOWED = 11
"""Uses of private names that are left. It may only become smaller."""


def is_private(name: str) -> bool:
    """Whether a name is private, and no special method such as IPython's `_repr_html_`."""
    return name.startswith("_") and not name.endswith("_")


def parsed(folder: Path) -> Iterator[tuple[Path, ast.AST]]:
    """Each node of each module in a folder."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            yield file, node


def private_names() -> set[str]:
    """The private names that the package gives to modules, classes, functions and attributes."""
    names = {file.stem for file in PACKAGE.rglob("_*.py")}
    for _, node in parsed(PACKAGE):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
    return {name for name in names if is_private(name)}


def uses(node: ast.AST) -> list[str]:
    """The private names that a node of a test asks others for, its own class aside."""
    match node:
        case ast.Attribute(value=ast.Name(id="self" | "cls")):
            return []
        case ast.Attribute(attr=name):
            return [name]
        case ast.ImportFrom(module=str(module), names=names) if module.startswith(PACKAGE.name):
            # A private module such as `_log_once` has tests of its own.
            return [alias.name for alias in names]
        case ast.Call(
            func=ast.Attribute(attr="setattr"), args=[_, ast.Constant(value=str(name)), *_]
        ):
            return [name]
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
            return [name]
    return []


def test_private_names_are_used_less_and_less() -> None:
    """A test of what only the inside knows breaks whenever the inside is moved."""
    private = private_names()
    found = [
        f"{file.relative_to(TESTS)}:{node.lineno}: {name}"  # type: ignore[attr-defined]
        for file, node in parsed(TESTS)
        for name in uses(node)
        if name in private
    ]
    listed = "\n".join(found)
    assert len(found) <= ALLOWED, f"{len(found)} uses of private names:\n{listed}"
    assert len(found) == ALLOWED, f"fewer than allowed, well done: set ALLOWED to {len(found)}"
