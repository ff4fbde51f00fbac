"""Bodies, read along while the program reads them, in whichever way it does.

That is heard below botocore's own object, in what it reads from: urllib3's response, or aiohttp's.
"""

from io import BytesIO
from typing import Any

from urllib3.response import HTTPResponse

from llama_token_tracker._log_once import notice
from llama_token_tracker.wire.answers.readers import Reader, watch_content, watch_response
from llama_token_tracker.wire.bodies import decoded
from llama_token_tracker.wire.exchange import Exchange


class Whole:
    """Reads a body once all of it has come: until then its figures aren't known.

    Args:
        exchange: Whose answer it is.
        length: How long it is, if a header says so.
    """

    def __init__(self, exchange: Exchange, length: str | None) -> None:
        self._exchange = exchange
        self._missing = int(length) if length is not None and length.isdecimal() else None
        self._read: list[bytes] = []

    def take_in(self, piece: bytes, amount: int | None) -> None:
        """Note that these bytes were read, when so many were asked for."""
        exchange = self._exchange
        if exchange.is_settled or amount == 0:
            return
        exchange.keep(piece)
        self._read.append(piece)
        if self._missing is not None:
            self._missing -= len(piece)
        if amount is None or amount < 0 or not piece or self._missing == 0:
            content, self._read = b"".join(self._read), []
            if (fields := decoded(content)) is not None:
                exchange.add(fields)
                if exchange.is_error(fields):
                    exchange.settle("failed")
            elif content:
                notice("an answer of Bedrock's is no JSON", content, "its figures are missing")
            exchange.settle("abandoned" if self._missing else "complete")


def watch_body(body: Any, reader: Reader) -> bool:
    """Have a body read along; say whether it is, which one of an unknown kind isn't."""
    raw = getattr(body, "_raw_stream", None)
    if isinstance(raw, HTTPResponse):
        watch_response(raw, reader)
    elif isinstance(raw, BytesIO):
        # Of somebody who stands for AWS, as in tests: all of it is there.
        reader.take_in(raw.getvalue()[raw.tell() :], None)
    elif (content := getattr(body, "content", None)).__class__.__module__ == "aiohttp.streams":
        watch_content(body.__wrapped__, content, reader)
    else:
        notice("a body of Bedrock's is of no known kind", body.__class__, "it isn't read along")
        return False
    return True
