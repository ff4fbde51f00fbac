"""The built pages in a browser: nothing is wider than a phone, and no docstring is taken apart."""

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from tests.needs import left_out_if, needs
from tests.views import chromium
from tests.views.hosts import framed

ROOT = Path(__file__).parents[1]

# What is wider than its page, or than the column of its text; what scrolls by itself may be.
LOOK = """
const view = doc.defaultView, width = doc.documentElement.clientWidth;
const scrolls = e => e && (['auto', 'scroll'].includes(view.getComputedStyle(e).overflowX)
  || scrolls(e.parentElement));
// Furo's tables have a padding of that width.
const edge = doc.querySelector('article').getBoundingClientRect().right;
const inside = doc.querySelectorAll('article *:not(h1,h2,h3,h4,.headerlink)');
const wide = [...inside].filter(e => !scrolls(e.parentElement)
  && e.getBoundingClientRect().right > edge + 8).map(e => e.outerHTML.slice(0, 80));
return doc.documentElement.scrollWidth > width ? [doc.documentElement.scrollWidth] : wide;
"""

pytestmark = [pytest.mark.browser, pytest.mark.slow, needs("sphinx", "furo", "myst_parser")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages."""
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "sphinx", "-q", ROOT / "docs", folder]
    subprocess.run(command, check=True, timeout=300)
    return folder


@left_out_if(chromium.FOUND is None, "no Chromium; Debian has one: apt install chromium")
def test_no_page_is_wider_than_its_window(built: Path, tmp_path: Path):
    """On a desktop and on a phone."""
    pages = [page for page in sorted(built.rglob("*.html")) if "_static" not in page.parts]
    assert len(pages) > 25
    names = {page: page.relative_to(built).as_posix() for page in pages}
    files = {f"{names[page]} {width}": (page, width) for page in pages for width in (1280, 360)}
    document = chromium.dom(framed(files, LOOK), tmp_path)
    found = re.search('<pre id="report">(.*?)</pre>', document, re.DOTALL)
    assert found, "the page's own script did not run"
    wide = json.loads(unescape(found[1]))
    assert wide.keys() == files.keys()
    assert {name: what for name, what in wide.items() if what} == {}


def test_docstrings_of_properties_are_whole(built: Path):
    """What stands before a colon in one isn't taken for its type."""
    figures = (built / "reference" / "api" / "figures.html").read_text("utf-8")
    text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", figures)))
    assert " accounts, which say what was spent: accounts[0].spent()." in text
    assert (
        "One event per call to a language model, oldest first; edit it, and totals follow." in text
    )
