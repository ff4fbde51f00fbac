"""Pages that show notebooks' outputs, with the style sheets of the packages installed here."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from tests.needs import is_installed

_SHEET = re.compile(r'\.push\(\[\w+\.id,(`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\')')

_LAB = """<div class="jp-Notebook jp-NotebookPanel-notebook"><div class="jp-WindowedPanel-viewport">
<div class="jp-Cell jp-CodeCell jp-Notebook-cell"><div class="jp-Cell-outputWrapper">
<div class="jp-OutputArea jp-Cell-outputArea"><div
class="jp-OutputArea-child jp-OutputArea-executeResult"><div class="jp-OutputPrompt
jp-OutputArea-prompt">[1]:</div><div class="jp-RenderedHTMLCommon jp-RenderedHTML
jp-OutputArea-output jp-OutputArea-executeResult" data-mime-type="text/html">{}</div></div></div>
</div></div></div></div>"""

_CLASSIC = """<div id="notebook-container" class="container"><div class="cell code_cell rendered">
<div class="output_wrapper"><div class="output"><div class="output_area"><div class="prompt
output_prompt">Out[1]:</div><div class="output_html rendered_html output_subarea
output_execute_result">{}</div></div></div></div></div></div>"""

# All that any of the others does, and worse, against each element that a card might have.
_WORST = """
#host * { float: left; position: relative; left: 7px; margin: -9px 3px; line-height: .6;
  letter-spacing: 2px; text-transform: uppercase; min-width: 9em; white-space: nowrap;
  font: italic 22px/1 serif; text-indent: 3em; word-break: keep-all; color: #888; opacity: .5 }
#host table, #host td, #host th, #host tr { display: block; height: 9px; padding: 0 }
#host summary { display: none } #host svg { width: 3px; height: 3px; display: none }
#host *::before { content: "host"; position: absolute } #host *::after { content: "host" }
"""


class Host(NamedTuple):
    """A page around an output.

    Attributes:
        lacking: Why it can't be made here; empty if it can.
        page: Makes it of an output, for a dark theme or a light one, in a folder; gives its file.
    """

    lacking: str
    page: Callable[[str, bool, Path], Path]


def _prefixes() -> list[Path]:
    return [Path(sys.prefix), *map(Path, sys.path)]


def _first(pattern: str) -> Path | None:
    return next((found for root in _prefixes() for found in sorted(root.glob(pattern))), None)


_LAB_CORE: Final = _first("share/jupyter/lab/static/jlab_core.*.js")
_NOTEBOOK_CORE: Final = _first("notebook/static/notebook_core.*.js")
_CLASSIC_STYLE: Final = _first("nbclassic/static/style/style.min.css")


def _bundled(core: Path | None) -> Callable[[str, bool, Path], Path]:
    """A page with the sheets that a bundle of scripts would put into it."""

    def page(output: str, is_dark: bool, folder: Path) -> Path:
        assert core is not None
        sheets = [_unquoted(sheet) for sheet in _SHEET.findall(core.read_text("utf-8"))]
        assert any(".jp-RenderedHTMLCommon" in sheet for sheet in sheets)
        name = "dark" if is_dark else "light"
        theme = _first(f"share/jupyter/lab/themes/@jupyterlab/theme-{name}-extension/index.css")
        assert theme is not None
        sheets.append(theme.read_text("utf-8"))
        attributes = f'data-jp-theme-light="{json.dumps(not is_dark)}" data-jp-theme-name="any"'
        return _written("\n".join(sheets), _LAB.format(output), folder, attributes)

    return page


def _unquoted(literal: str) -> str:
    escapes = {"n": "\n", "t": "\t"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), literal[1:-1])


def _classic(output: str, _is_dark: bool, folder: Path) -> Path:
    assert _CLASSIC_STYLE is not None
    body = _CLASSIC.format(output)
    return _written(_CLASSIC_STYLE.read_text("utf-8"), body, folder, 'class="notebook_app"')


def _worst(output: str, is_dark: bool, folder: Path) -> Path:
    name = "dark" if is_dark else "light"
    body = f'<pre id="host" class="vscode-{name}">{output}</pre>'
    return _written(_WORST, body, folder, f'class="vscode-{name}"')


def _written(sheets: str, body: str, folder: Path, attributes: str) -> Path:
    file = folder / "page.html"
    file.write_text(
        "<!doctype html><html><head><meta charset='utf-8'><style>"
        # What the program puts where it likes isn't there.
        f"{sheets}\nbody{{overflow:auto}}</style></head><body {attributes}>{body}</body></html>",
        "utf-8",
    )
    return file


def _converted(template: str) -> Callable[[str, bool, Path], Path]:
    """A page of nbconvert's."""

    def page(output: str, is_dark: bool, folder: Path) -> Path:
        from nbconvert import HTMLExporter
        from nbformat.v4 import new_code_cell, new_notebook, new_output

        shown = new_output("execute_result", {"text/html": output}, execution_count=1)
        notebook = new_notebook(cells=[new_code_cell("tracker", outputs=[shown])])
        exporter = HTMLExporter(template_name=template, theme="dark" if is_dark else "light")
        file = folder / "page.html"
        file.write_text(exporter.from_notebook_node(notebook)[0], "utf-8")
        return file

    return page


def _sphinx(output: str, is_dark: bool, folder: Path) -> Path:
    """A page of Sphinx's, with furo."""
    source, built = folder / "source", folder / "built"
    source.mkdir()
    (source / "conf.py").write_text('html_theme = "furo"\n')
    raw = "\n".join(f"   {line}" for line in output.splitlines())
    (source / "index.rst").write_text(f"A page\n======\n\n.. raw:: html\n\n{raw}\n", "utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", source, built]
    subprocess.run(command, check=True, timeout=120)
    file = built / "index.html"
    page = file.read_text("utf-8")
    chosen = page.replace('localStorage.getItem("theme")', f'"{"dark" if is_dark else "light"}"')
    assert chosen != page
    file.write_text(chosen, "utf-8")
    return file


def _without(*modules: str) -> str:
    lacking = [module for module in modules if not is_installed(module)]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


def _lacks(found: Path | None, package: str) -> str:
    return "" if found else f"not installed: {package}"


_NO_SHEETS = "no package holds its style sheets; `worst` does what it's known to do"

HOSTS: Final = {
    "JupyterLab": Host(_lacks(_LAB_CORE, "jupyterlab"), _bundled(_LAB_CORE)),
    "Notebook 7": Host(
        _lacks(_NOTEBOOK_CORE and _LAB_CORE, "notebook, jupyterlab"), _bundled(_NOTEBOOK_CORE)
    ),
    "nbclassic": Host(_lacks(_CLASSIC_STYLE, "nbclassic"), _classic),
    "nbconvert lab": Host(_without("nbconvert"), _converted("lab")),
    "nbconvert classic": Host(_without("nbconvert"), _converted("classic")),
    "Sphinx furo": Host(_without("sphinx", "furo"), _sphinx),
    "worst": Host("", _worst),
    "VS Code": Host(_NO_SHEETS, _worst),
    "Colab": Host(_NO_SHEETS, _worst),
}
"""By name. VS Code and Colab are named, so that a run says what it leaves out."""


def framed(files: dict[str, tuple[Path, int]], script: str) -> str:
    """A page that shows others, each in a frame, and finds something out about each.

    Args:
        files: The others and their frames' widths, in pixels, by name.
        script: A function's body: from `doc`, a document, to what is found out.
    """
    frames = "".join(
        f'<iframe name="{escape(name)}" src="{file.as_uri()}" width="{width}" height="900"'
        ' style="border:0;display:block"></iframe>'
        for name, (file, width) in files.items()
    )
    return (
        "<!doctype html><html><head><meta charset='utf-8'></head><body style='margin:0'>"
        f"{frames}<pre id='report'></pre><script>const look = doc => {{{script}}};"
        "addEventListener('load', () => { document.getElementById('report').textContent ="
        "JSON.stringify(Object.fromEntries([...document.querySelectorAll('iframe')].map("
        "frame => [frame.name, look(frame.contentDocument)]))) })</script></body></html>"
    )
