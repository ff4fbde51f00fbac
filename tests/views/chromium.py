"""Debian's Chromium, to look at a page as a reader's browser would."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

FOUND: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""Where it is, or `None`."""

_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    # A page may look into its frames.
    "--allow-file-access-from-files",
    # Nothing here is to reach any network.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_DARK: Final = "--blink-settings=preferredColorScheme=0"


def page(body: str, *, width: int, attributes: str = "", script: str = "") -> str:
    """A page around a notebook's output.

    Args:
        body: The output.
        width: How wide the output is, in pixels; a headless window can't be as narrow as a phone.
        attributes: Those of the body, such as a notebook's theme.
        script: What the page itself runs in the end.
    """
    return (
        "<!doctype html><html><head><meta charset='utf-8'><title>untouched</title></head>"
        f"<body {attributes} style='margin:0'><div id='out' style='width:{width}px'>{body}</div>"
        f"<script>{script}</script></body></html>"
    )


def dom(html: str, folder: Path) -> str:
    """The document after all scripts of a page have run."""
    return _run(html, folder, "--dump-dom").decode("utf-8", "replace")


def picture(html: str, folder: Path, size: tuple[int, int], *, is_dark: bool) -> bytes:
    """A page as PNG.

    Args:
        html: The page.
        folder: Where to put files that are needed on the way.
        size: Width and height of the window.
        is_dark: Whether the system has a dark theme.
    """
    target = folder / "page.png"
    options = [f"--screenshot={target}", f"--window-size={size[0]},{size[1]}"]
    _run(html, folder, *options, *([_DARK] if is_dark else []))
    return target.read_bytes()


def _run(html: str, folder: Path, *options: str) -> bytes:
    assert FOUND is not None
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    command = [FOUND, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", *options, file.as_uri()]
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
