"""Makes the pictures of the documentation again: `python -m tests.pictures`, with Chromium.

They show figures and prices of `tests.views.cards`, so that they change when the card does.
"""

import io
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image

from llama_token_tracker import TokenCountingHandler
from tests.views import chromium
from tests.views.cards import BUDGETS, PRICES, evening

FOLDER = Path(__file__).parent.parent / "docs" / "images"
WIDTH = 720
# Rounded corners would have the colour of the page in which the picture was taken.
_SQUARE = "<style>.ltt { border-radius: 0 !important }</style>"
_HEIGHT = "document.body.dataset.height = document.getElementById('out').offsetHeight"


def main() -> int:
    """Draw the card by day and by night.

    Returns:
        The exit code: 1 if there's no browser.
    """
    if chromium.FOUND is None:
        print("there's no Chromium here; Debian has one: apt install chromium", file=sys.stderr)
        return 1
    handler = TokenCountingHandler(prices=PRICES, budget=BUDGETS)
    evening(handler.tracker)
    html = chromium.page(_SQUARE + handler._repr_html_(), width=WIDTH, script=_HEIGHT)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = re.search(r'data-height="(\d+)"', chromium.dom(html, folder))
        assert found, "the browser didn't say how high the card is"
        for theme, is_dark in (("light", False), ("dark", True)):
            picture = chromium.picture(html, folder, (WIDTH, int(found[1])), is_dark=is_dark)
            # A card has few colours, and a palette of them takes a third of the room.
            few = (
                Image.open(io.BytesIO(picture))
                .convert("RGB")
                .quantize(160, Image.Quantize.MAXCOVERAGE)
            )
            few.save(FOLDER / f"card-{theme}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
