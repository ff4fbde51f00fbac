"""AWS's binary event stream (`application/vnd.amazon.eventstream`), written from its definition.

A message is: total length, header length, CRC-32 of these eight bytes, headers, payload, CRC-32
of everything before. All numbers are big-endian.

Source:
    Amazon Transcribe developer guide, "Event stream encoding" (checked 2026-11-22).
"""

from __future__ import annotations

import json
import struct
from binascii import crc32
from collections.abc import Mapping

__all__ = ["event", "exception", "message"]

_STRING = 7
_LENGTHS, _CRC = struct.Struct("!II"), struct.Struct("!I")
_OVERHEAD = _LENGTHS.size + 2 * _CRC.size


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Frame one message with its headers and checksums."""
    head = b"".join(_header(name, value) for name, value in headers.items())
    prelude = _LENGTHS.pack(_OVERHEAD + len(head) + len(payload), len(head))
    body = prelude + _CRC.pack(crc32(prelude)) + head + payload
    return body + _CRC.pack(crc32(body))


def event(name: str, payload: object) -> bytes:
    """Frame one event with a JSON payload."""
    return message(
        {":event-type": name, ":content-type": "application/json", ":message-type": "event"},
        json.dumps(payload).encode(),
    )


def exception(name: str, text: str) -> bytes:
    """Frame an error that arrives after the stream has begun."""
    return message(
        {
            ":exception-type": name,
            ":content-type": "application/json",
            ":message-type": "exception",
        },
        json.dumps({"message": text}).encode(),
    )


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack("!B", len(key)) + key + struct.pack("!BH", _STRING, len(text)) + text
