"""Streams as providers send them, recorded from the provider here, to be cut anywhere."""

import http.client
import json
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from llama_token_tracker import Usage
from llama_token_tracker.testing import LoopbackProvider, Reply

BILLED = Usage(input_tokens=1_234, output_tokens=56)
SAID = "Canberra is the capital."


class Recorded(NamedTuple):
    """One stream.

    Attributes:
        content: Its bytes.
        kind: Its content type.
        over: From how many of its bytes on its format says that the answer is over.
    """

    content: bytes
    kind: str
    over: int


def record(
    provider: LoopbackProvider, path: str, body: dict[str, Any], last: bytes = b"", **reply: Any
) -> Recorded:
    """Record the answer to a request.

    Args:
        provider: Who answers.
        path: What is asked for.
        body: The request.
        last: What the line holds that says that the answer is over; else its last bytes do.
        reply: How the reply is unlike others.
    """
    provider.script(Reply(SAID, **{"usage": BILLED, **reply}))
    connection = http.client.HTTPConnection(urlsplit(provider.url()).netloc)
    try:
        connection.request("POST", quote(path), json.dumps(body))
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    assert answer.status == 200
    end = content.index(b"\n", content.index(last)) if last else len(content)
    return Recorded(content, answer.headers["Content-Type"], len(content[:end].rstrip(b"\r")))
