"""Sizes of images are those that Pillow reads, from less of a file."""

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llama_token_tracker.extraction.images import image_size


def _saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A file as Pillow writes it, of 300 by 200 pixels that don't compress."""
    file = io.BytesIO()
    noise = Image.effect_noise((300, 200), 90).convert(mode)
    if options.get("save_all"):
        options["append_images"] = [noise.rotate(90), noise.rotate(180)]
    noise.save(file, kind, **options)
    return file.getvalue()


PROFILE: Any = {"icc_profile": bytes(150_000), "comment": b"\xff\xc0" * 9}
FILES = {
    "png": _saved("PNG"),
    "png with a palette": _saved("PNG", "P"),
    "gif": _saved("GIF"),
    "gif that moves": _saved("GIF", save_all=True),
    "jpeg": _saved("JPEG"),
    "jpeg in stages": _saved("JPEG", progressive=True),
    "jpeg for print": _saved("JPEG", "CMYK"),
    "jpeg with what a camera adds": _saved("JPEG", exif=b"Exif\0\0" + bytes(60_000), **PROFILE),
    "webp": _saved("WEBP"),
    "webp without loss": _saved("WEBP", lossless=True),
    "webp that lets through": _saved("WEBP", "RGBA"),
    "webp that moves": _saved("WEBP", save_all=True),
}


def _by_pillow(data: bytes) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, SyntaxError, ValueError):
        return None


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_real_files_have_the_size_that_pillow_reads(name: str, data: st.DataObject) -> None:
    """Where a file is cut, no other size is read, and never less than Pillow reads."""
    file = FILES[name]
    head = file[: data.draw(st.integers(0, len(file)) | st.integers(0, 100))]

    assert image_size(file) == _by_pillow(file) == (300, 200)
    assert image_size(head) in {_by_pillow(head), (300, 200)}


def _jpeg(width: int, height: int) -> bytes:
    comment = b"\xff\xfe\x00\x08hello\0"
    table = b"\xff\xc4\x00\x04ab"
    frame = b"\xff\xff\xc2" + struct.pack(">HBHH", 11, 8, height, width)
    return b"\xff\xd8" + comment + table + frame


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480),
        b"GIF89a" + struct.pack("<HH", 640, 480),
        _jpeg(640, 480),
        b"RIFF\0\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0"
        + (639).to_bytes(3, "little")
        + (479).to_bytes(3, "little"),
        b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", 639 | 479 << 14),
        b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 640, 480),
    ],
    ids=["png", "gif", "jpeg", "webp", "webp-lossless", "webp-lossy"],
)
def test_sizes_are_read_from_the_first_bytes(data: bytes) -> None:
    """Each format tells its size; a file cut off before it tells none."""
    assert image_size(data) == (640, 480)
    assert image_size(data[:-2]) is None


@given(
    st.binary(),
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"RIFF0000WEBPVP8 "]),
)
def test_bytes_of_any_kind_are_no_error(data: bytes, start: bytes) -> None:
    """What is no image, or a broken one, has no size or a positive one."""
    size = image_size(start + data)

    assert size is None or min(size) > 0
