"""An image's width and height, from the first bytes of its file. Nothing is fetched or decoded.

Not by Pillow, with which the tests compare: of a WebP it wants the whole file, of other formats
more bytes, all of it takes some twenty times as long, and a hostile PNG 70 MB.
"""

import struct


def image_size(data: bytes) -> tuple[int, int] | None:
    """Read an image's width and height from its first bytes.

    Args:
        data: The file, or as much of it as there is: anything.

    Returns:
        Width and height in pixels, or `None` if they can't be read.

    Source:
        PNG, GIF, JPEG and WebP are what OpenAI, Anthropic and Bedrock take: "Image input
        requirements" of https://developers.openai.com/api/docs/guides/images-vision, and
        `media_type` and `ImageFormat` in the models of their SDKs (checked 2026-11-28).
    """
    try:
        size = _size(data)
    except (struct.error, IndexError):
        return None
    return size if size and min(size) > 0 else None


def _size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack_from(">II", data, 16)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return struct.unpack_from("<HH", data, 6)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # A fill byte.
            at += 1
            continue
        # A start of frame, but neither DHT, JPG nor DAC.
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = data[24:27], data[27:30]
        if len(height) < 3:
            return None
        return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
