"""Cards within the style sheets of notebooks and pages: all texts apart, nothing sticking out."""

import json
import re
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.needs import left_out_if
from tests.views import chromium
from tests.views.cards import evening
from tests.views.hosts import HOSTS, framed

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    left_out_if(chromium.FOUND is None, "no Chromium; Debian has one: apt install chromium"),
]

WIDTHS = (1280, 720, 360)

# Of a document with cards: where their texts meet, what sticks out, which figures stand unnamed.
LOOK = """
const view = doc.defaultView, cards = [...doc.querySelectorAll('.ltt')];
const clip = (box, e) => {
  let {left, right, top, bottom} = box;
  for (; e && !e.matches('.ltt'); e = e.parentElement)
    if (view.getComputedStyle(e).overflowY != 'visible') {
      const b = e.getBoundingClientRect();
      [left, top] = [Math.max(left, b.left), Math.max(top, b.top)];
      [right, bottom] = [Math.min(right, b.right), Math.min(bottom, b.bottom)];
    }
  return {left, right, top, bottom};
};
const found = [];
for (const card of [...cards, ...cards]) {
  // First as it is, then with all prompts unfolded.
  if (found.length >= cards.length) card.querySelectorAll('details').forEach(e => e.open = true);
  const texts = [], walker = doc.createTreeWalker(card, 4);
  for (let node; node = walker.nextNode();) {
    if (!node.data.trim() || !node.parentElement.checkVisibility()) continue;
    const range = doc.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects())
      if (box.width > 1) texts.push([node, clip(box, node.parentElement)]);
  }
  const edge = card.getBoundingClientRect(), around = card.parentElement.getBoundingClientRect();
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 2 && b.top < a.bottom - 2;
  const overlaps = [];
  texts.forEach(([a, one], i) => texts.slice(i + 1).forEach(([b, other]) => {
    if (a != b && meet(one, other)) overlaps.push([a.data.slice(0, 30), b.data.slice(0, 30)]);
  }));
  const seen = e => e && e.getBoundingClientRect().height > 1;
  const unnamed = [...card.querySelectorAll('tbody td')].filter(cell => {
    const row = [...cell.parentElement.children], at = row.indexOf(cell);
    if (!at || !cell.textContent.trim()) return false;
    const head = cell.closest('table').querySelectorAll('thead th')[at];
    if (seen(head)) return !head.textContent.trim()
      || Math.abs(head.getBoundingClientRect().right - cell.getBoundingClientRect().right) > 1;
    return view.getComputedStyle(cell, '::before').content != 'attr(data-l) " "'
      && !view.getComputedStyle(cell, '::before').content.includes(cell.dataset.l);
  }).map(cell => cell.textContent);
  const generated = [card, ...card.querySelectorAll('*')].flatMap(e => ['::before', '::after']
    .filter(which => !e.dataset.l && view.getComputedStyle(e, which).content != 'none'
      && view.getComputedStyle(e, which).content != 'normal')
    .map(which => e.tagName + which));
  const style = view.getComputedStyle(card);
  found.push({
    texts: texts.length,
    overlaps: overlaps,
    sticking_out: texts.filter(([, b]) => b.right > edge.right + .5 || b.left < edge.left - .5)
      .map(([a]) => a.data.slice(0, 60)),
    card: [card.scrollWidth, card.clientWidth, edge.left >= around.left - .5,
      edge.right <= around.right + .5, edge.width],
    unnamed: unnamed,
    generated: generated,
    ground: style.backgroundColor,
    font: [...new Set(texts.map(([a]) => view.getComputedStyle(a.parentElement).fontSize))],
    bar: [...card.querySelectorAll('rect')].filter(e => !(e.getBoundingClientRect().width > 0))
      .length,
  });
}
return found;
"""


@cache
def _output() -> str:
    tracker = evening()
    return tracker._repr_html_() + tracker.llm_token_counts[-1]._repr_html_()


def seen(files: dict[str, tuple[Path, int]], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What the browser finds out about the cards of pages."""
    document = chromium.dom(framed(files, LOOK), folder)
    found = re.search('<pre id="report">(.*?)</pre>', document, re.DOTALL)
    assert found, "the page's own script did not run"
    report: dict[str, list[dict[str, Any]]] = json.loads(unescape(found[1]))
    return report


def known(*names: str) -> pytest.MarkDecorator:
    """A test for each of these hosts, if it can be made here."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=left_out_if(bool(lacking), f"{name}: {lacking}"))
            for name, lacking in ((name, HOSTS[name].lacking) for name in names)
        ],
    )


@known("JupyterLab", "nbconvert lab", "nbconvert classic", "Sphinx furo")
def test_a_card_without_its_style_can_be_read(name: str, tmp_path: Path):
    """As of a notebook that isn't trusted: the host's sheet applies, and no two texts overlap."""
    bare = re.sub("<style>.*?</style>", "", _output())
    (tmp_path / "host").mkdir()
    file = HOSTS[name].page(bare, False, tmp_path / "host")
    report = seen({str(width): (file, width) for width in (1280, 720)}, tmp_path)
    assert [card["overlaps"] for cards in report.values() for card in cards] == [[]] * 8


@known(*HOSTS)
def test_no_style_sheet_of_a_host_reaches_a_card(name: str, tmp_path: Path):
    """On a desktop, a tablet and a phone, by day and by night."""
    files: dict[str, tuple[Path, int]] = {}
    for theme in ("light", "dark"):
        folder = tmp_path / theme
        folder.mkdir()
        file = HOSTS[name].page(_output(), theme == "dark", folder)
        files |= {f"{theme} {width}": (file, width) for width in WIDTHS}
    report = seen(files, tmp_path)
    assert report.keys() == files.keys()
    for case, cards in report.items():
        assert len(cards) == 4
        assert cards[2]["texts"] > cards[0]["texts"]
        for card in cards:
            assert card["texts"] > 10
            assert card["overlaps"] == [], case
            assert card["sticking_out"] == [], case
            assert card["card"][0] <= card["card"][1], case
            assert card["card"][2:4] == [True, True], case
            assert card["unnamed"] == [], case
            assert card["generated"] == [], case
            assert card["bar"] == 0, case
            assert sorted(card["font"])[0] >= "12px", case
            if "classic" not in name:  # which is always light
                dark = "rgb(22, 27, 34)"
                assert card["ground"] == (dark if "dark" in case else "rgb(255, 255, 255)"), case
