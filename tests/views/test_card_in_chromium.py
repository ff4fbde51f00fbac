"""Cards in a real browser: nothing in them runs, nothing sticks out, and all can be read."""

import json
import re
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from llama_token_tracker import Tracker
from tests.needs import left_out_if
from tests.views import chromium
from tests.views.cards import NASTY, afternoon, nasty, record

pytestmark = [
    pytest.mark.browser,
    left_out_if(chromium.FOUND is None, "no Chromium; Debian has one: apt install chromium"),
]

# What the page finds out about its card, left in the document for the test to read.
LOOK = """
const out = document.getElementById('out'), cards = [...out.querySelectorAll('.ltt')];
const card = cards[0], look = getComputedStyle(card);
function light(colour) {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function contrast(one, other) {
  const [dim, bright] = [light(one), light(other)].sort((a, b) => a - b);
  return (bright + 0.05) / (dim + 0.05);
}
const ground = look.backgroundColor;
const texts = [...card.querySelectorAll('*')].filter(
  e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) && e.tagName != 'STYLE');
const report = {
  title: document.title,
  ground: ground,
  scripts: out.querySelectorAll('script,img,iframe,object,link').length,
  loaded: performance.getEntriesByType('resource').length,
  page: [document.documentElement.scrollWidth, document.documentElement.clientWidth],
  cards: cards.map(c => [c.scrollWidth, c.clientWidth]),
  sticking_out: [...out.querySelectorAll('.ltt *')].filter(e => {
    const box = e.getBoundingClientRect(), around = out.getBoundingClientRect();
    return box.width && (box.right > around.right + 0.5 || box.left < around.left - 0.5);
  }).map(e => e.outerHTML.slice(0, 80)),
  overlapping: [...out.querySelectorAll('tr')].filter(row => {
    const boxes = [...row.children].map(c => c.getBoundingClientRect()).filter(b => b.width);
    const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
      && a.top < b.bottom - 1 && b.top < a.bottom - 1;
    return boxes.some((a, i) => boxes.slice(i + 1).some(b => meet(a, b)));
  }).length,
  contrast: Math.min(...texts.map(e => contrast(getComputedStyle(e).color, ground))),
  bar: Math.min(...[...card.querySelectorAll('rect')].map(
    e => contrast(getComputedStyle(e).fill, ground))),
  font: Math.min(...texts.map(e => parseFloat(getComputedStyle(e).fontSize))),
};
const said = document.createElement('pre');
said.id = 'report';
said.textContent = JSON.stringify(report);
document.body.append(said);
"""


def looked_at(body: str, folder: Path, width: int = 1000, attributes: str = "") -> dict[str, Any]:
    """What the browser finds out about cards."""
    html = chromium.page(body, width=width, attributes=attributes, script=LOOK)
    found = re.search('<pre id="report">(.*?)</pre>', chromium.dom(html, folder), re.DOTALL)
    assert found, "the page's own script did not run"
    report: dict[str, Any] = json.loads(unescape(found[1]))
    return report


def both(tracker: Tracker) -> str:
    """The cards of a tracker and of its last call."""
    return tracker._repr_html_() + tracker.llm_token_counts[-1]._repr_html_()


def test_foreign_texts_do_nothing(tmp_path: Path):
    """Scripts, markup and bidi marks of a prompt, a model, a scope or a tag are only text."""
    report = looked_at(both(nasty()), tmp_path)
    assert report["title"] == "untouched"
    assert (report["scripts"], report["loaded"]) == (0, 0)
    assert len(report["cards"]) == 2
    # The same texts as they are would do harm: the check itself works.
    owned = looked_at(
        f"<div class='ltt'><p>x</p>{NASTY.encode(errors='replace').decode()}", tmp_path
    )
    assert owned["title"] == "owned"


@pytest.mark.parametrize("width", [1000, 520, 360])
@pytest.mark.parametrize("tracker", [afternoon, nasty])
def test_nothing_sticks_out(tmp_path: Path, tracker: Any, width: int):
    """On a desktop and on a phone, whatever the texts, every figure can be read."""
    report = looked_at(both(tracker()), tmp_path, width)
    assert report["page"][0] <= max(report["page"][1], width)
    assert all(inner <= outer for inner, outer in report["cards"])
    assert report["sticking_out"] == []
    assert report["overlapping"] == 0
    assert report["font"] >= 12


def test_large_figures_fit_a_phone(tmp_path: Path):
    """Trillions of tokens, too."""
    tracker = Tracker()
    record(tracker, (10**15, 10**15), model="m" * 200)
    report = looked_at(both(tracker), tmp_path, 360)
    assert report["sticking_out"] == []
    assert all(inner <= outer for inner, outer in report["cards"])


@pytest.mark.parametrize(
    ("attributes", "is_light"),
    [
        ("", True),
        ('data-jp-theme-light="true"', True),
        ('data-jp-theme-light="false"', False),
        ('class="vscode-light"', True),
        ('class="vscode-dark"', False),
        ('class="vscode-high-contrast"', False),
    ],
)
def test_it_follows_the_theme_and_has_contrast(tmp_path: Path, attributes: str, is_light: bool):
    """Text has 4.5 to 1, parts of the bar 3 to 1, as WCAG asks."""
    report = looked_at(afternoon()._repr_html_(), tmp_path, attributes=attributes)
    assert report["ground"] == ("rgb(255, 255, 255)" if is_light else "rgb(22, 27, 34)")
    assert report["contrast"] >= 4.5
    assert report["bar"] >= 3


def test_it_follows_the_system_where_no_theme_is_named(tmp_path: Path):
    """A dark system gives a dark card, unless the notebook says that it's light."""
    plain = chromium.page(afternoon()._repr_html_(), width=400)
    light = chromium.page(afternoon()._repr_html_(), width=400, attributes='class="vscode-light"')
    pictures = [
        chromium.picture(html, tmp_path, (500, 900), is_dark=is_dark)
        for html, is_dark in ((plain, False), (plain, True), (light, True))
    ]
    # Rendering may differ by shades where letters have their edges.
    assert _difference(pictures[0], pictures[1]) > 50
    assert _difference(pictures[0], pictures[2]) < 1


def _difference(one: bytes, other: bytes) -> float:
    """By how much pixels differ on average, from 0 to 255."""
    images = [Image.open(BytesIO(picture)).convert("L") for picture in (one, other)]
    (mean,) = ImageStat.Stat(ImageChops.difference(*images)).mean
    return mean
