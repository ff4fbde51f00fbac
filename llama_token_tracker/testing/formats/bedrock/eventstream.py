"""AWS's binary event stream (`application/vnd.amazon.eventstream`), written from its definition.

A message is: total length, header length, CRC-32 of these eight bytes, headers, payload, CRC-32
of everything before. All numbers are big-endian. botocore reads this format and can't write it.

Source:
    https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html (checked 2026-11-22).
"""

import struct
from binascii import crc32
from collections.abc import Mapping
from typing import Final

from llama_token_tracker.testing.formats.base import dumps

STREAM: Final = "application/vnd.amazon.eventstream"
"""The media type."""

_STRING: Final = 7
_LENGTHS: Final = struct.Struct("!II")
_CRC: Final = struct.Struct("!I")
_OVERHEAD: Final = _LENGTHS.size + 2 * _CRC.size


def event(name: str, payload: object) -> bytes:
    """Frame one event with a JSON payload."""
    return _json("event", name, payload)


def exception(name: str, payload: object) -> bytes:
    """Frame an exception, which ends a stream."""
    return _json("exception", name, payload)


def _json(kind: str, name: str, payload: object) -> bytes:
    headers = {
        f":{kind}-type": name,
        ":content-type": "application/json",
        ":message-type": kind,
    }
    return _message(headers, dumps(payload))


def _message(headers: Mapping[str, str], payload: bytes) -> bytes:
    head = b"".join(_header(name, value) for name, value in headers.items())
    prelude = _LENGTHS.pack(_OVERHEAD + len(head) + len(payload), len(head))
    body = prelude + _CRC.pack(crc32(prelude)) + head + payload
    return body + _CRC.pack(crc32(body))


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack("!B", len(key)) + key + struct.pack("!BH", _STRING, len(text)) + text
