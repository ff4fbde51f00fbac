"""Runs the notebooks again and keeps their outputs: `python -m tests.notebooks`.

A notebook whose integrations aren't installed here is left as it is. Outputs hold no times, paths
or ports, so that they change only when a figure does.
"""

import ast
import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import nbformat
from nbclient import NotebookClient

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "notebooks"
_LONGEST_S: Final = 120

_TIMES: Final = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"), "2026-01-05 09:30:00 UTC"),
    (re.compile(r"(?<=<bdi>)(&lt;)?[\d.,]+ m?s(?=</bdi>)|(?<=UTC, )<?[\d.]+ m?s\b"), "1.2 s"),
)
"""When calls of a notebook were made, and how long they took, and what is kept in their place."""

NEEDS: Final = {
    "01_token_counting.ipynb": ("llama_index.llms.openai",),
    # LangChain's side of Bedrock is only in the environment `anthropic`.
    "02_bedrock_claude.ipynb": (
        "boto3",
        "langchain_aws",
        "llama_index.embeddings.bedrock",
        "llama_index.llms.bedrock_converse",
    ),
}
"""The modules that each notebook imports, beyond what every environment has."""


@dataclass(frozen=True, slots=True)
class Run:
    """A notebook that has been run from its first cell to its last.

    Attributes:
        notebook: It, with its new outputs.
        asked: What was asked of its kernel at the end, by name.
    """

    notebook: Any
    asked: dict[str, Any]


def missing(name: str) -> list[str]:
    """Name the modules that a notebook needs and this environment lacks.

    Args:
        name: The notebook's file.
    """
    return [module for module in NEEDS[name] if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # The package that it would lie in isn't there either.
        return False


def read(name: str) -> Any:
    """Read a notebook as it's stored.

    Args:
        name: Its file.
    """
    return nbformat.read(FOLDER / name, as_version=4)


def run(name: str, **questions: str) -> Run:
    """Run a notebook in a kernel of its own.

    Args:
        name: Its file.
        **questions: Expressions to evaluate in the kernel at the end. Their values are made of
            what Python writes as literals.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell has failed.
    """
    notebook = read(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    asking = nbformat.v4.new_code_cell(
        "print(dict(" + ", ".join(f"{key}=({text})" for key, text in questions.items()) + "))"
    )
    notebook.cells.append(asking)
    _client(notebook).execute(env=_environment())
    notebook.cells.pop()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            _take_times_out(output.get("data", {}))
    return Run(notebook, ast.literal_eval(asking.outputs[0].text))


def _take_times_out(data: dict[str, Any]) -> None:
    for kind, shown in data.items():
        for pattern, instead in _TIMES:
            data[kind] = shown = pattern.sub(instead, shown)


def _client(notebook: Any) -> NotebookClient:
    return NotebookClient(
        notebook,
        timeout=_LONGEST_S,
        # Else each cell says when it ran.
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )


def _environment() -> dict[str, str]:
    """This process's, with the package that stands beside the tests in front."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def save(name: str) -> None:
    """Run a notebook, and keep its outputs.

    Args:
        name: Its file.
    """
    notebook = run(name).notebook
    # Which version of Python ran it is of no interest.
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, FOLDER / name)


def main() -> int:
    """Save all that can be run here.

    Returns:
        The exit code: 1 if one was left out.
    """
    left_out = False
    for name in NEEDS:
        lacking = missing(name)
        if lacking:
            left_out = True
            print(f"{name}: left as it is, needs {', '.join(lacking)}", file=sys.stderr)
        else:
            save(name)
            print(name)
    return int(left_out)


if __name__ == "__main__":
    sys.exit(main())
