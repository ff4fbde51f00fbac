"""Encoded answers are decoded as their reader decodes them, in little memory."""

import gzip
import logging
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_token_tracker import Tracker
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.wire.answers.content_encoding import ContentDecoder
from llama_token_tracker.wire.httpx import WatchingTransport
from tests.wire.answers.test_documents import cut
from tests.wire.httpx_clients.relay import STREAMED, WHOLE

_MEGABYTE = 2**20
_PIECE = 64 * 1024

ALTERNATIVES = {
    "br": ("brotli", "brotlicffi"),
    "zstd": ("compression.zstd", "backports.zstd", "zstandard"),
}
"""The packages that undo an encoding, any of which will do."""


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


INSTALLED = [
    (encoding, name)
    for encoding, names in ALTERNATIVES.items()
    for name in names
    if _is_installed(name)
]
BROTLI = next((name for encoding, name in INSTALLED if encoding == "br"), None)


def raw_deflate(content: bytes) -> bytes:
    """Encode without zlib's header, as some servers do."""
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(content) + encoder.flush()


ENCODERS: dict[tuple[str, str], Callable[[bytes], bytes]] = {
    **{(name, "usual"): encode for name, encode in WHOLE.items() if name},
    ("deflate", "raw"): raw_deflate,
    ("zstd", "two frames"): lambda body: WHOLE["zstd"](body[:9]) + WHOLE["zstd"](body[9:]),
    ("gzip", "then more"): lambda body: gzip.compress(body) + b"more",
}
if BROTLI is not None:
    ENCODERS["br", "usual"] = import_module(BROTLI).compress

each_encoder = pytest.mark.parametrize(
    ("encoding", "encode"),
    [pytest.param(name, encode, id=f"{name}-{how}") for (name, how), encode in ENCODERS.items()],
)
each_library = pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda it: it.__name__)


def use_only(
    name: str | None, encoding: str, monkeypatch: pytest.MonkeyPatch, *, none: bool = False
) -> None:
    """Hide the packages that undo an encoding, but for one; without a name hide none, or all."""
    for other in ALTERNATIVES.get(encoding, ()):
        if none or name not in {None, other}:
            monkeypatch.setitem(sys.modules, other, None)


def decoded(encoding: str, pieces: list[bytes]) -> bytes:
    """What a body stands for."""
    decoder = ContentDecoder(encoding)
    return b"".join(plain for piece in pieces for plain in decoder.decode(piece))


def read(library: Any, encoding: str, pieces: list[bytes]) -> bytes | None:
    """What a program that uses httpx or httpx2 reads; `None` if it gets an error."""
    headers = {"content-encoding": encoding}
    try:
        content: bytes = library.Response(200, headers=headers, content=iter(pieces)).read()
    except library.DecodingError:
        return None
    return content


def _knows(library: ModuleType, encoding: str) -> bool:
    return encoding in import_module(f"{library.__name__}._decoders").SUPPORTED_DECODERS


# --- as the reader does --------------------------------------------------------------------


@each_library
@each_encoder
@given(data=st.data(), content=st.binary(max_size=2_000))
def test_what_is_encoded_is_decoded(
    library: Any,
    encoding: str,
    encode: Callable[[bytes], bytes],
    data: st.DataObject,
    content: bytes,
):
    """Wherever it's cut, and as by the library that reads the answer."""
    pieces = cut(data, encode(content))
    assert decoded(encoding, pieces) == content
    if _knows(library, encoding):
        assert read(library, encoding, pieces) in {content, None}


@each_library
@each_encoder
@given(data=st.data(), content=st.binary(max_size=200))
def test_what_the_reader_makes_of_a_broken_body_is_read_alike(
    library: Any,
    encoding: str,
    encode: Callable[[bytes], bytes],
    data: st.DataObject,
    content: bytes,
):
    """A byte is another, or the end is missing: what the program reads is read."""
    encoded = bytearray(encode(content))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(0, 255))
    pieces = cut(data, bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))
    expected = read(library, encoding, pieces) if _knows(library, encoding) else None
    if expected is not None:
        assert decoded(encoding, pieces) == expected


@pytest.mark.parametrize("encoding", [name for name in WHOLE if name])
def test_a_piece_is_decoded_before_the_next_has_come(encoding: str):
    """Nothing waits for the end of a stream."""
    encode, decoder = STREAMED[encoding](), ContentDecoder(encoding)
    for piece in (b"one", b"two words", b"three more words", b"long" * 100_000):
        assert b"".join(decoder.decode(encode(piece))) == piece


def test_encodings_are_undone_in_their_order():
    """The last that was applied comes off first, as httpx has it."""
    assert decoded(" Deflate, identity, gzip", [gzip.compress(zlib.compress(b"text"))]) == b"text"


def test_what_is_not_what_it_says_is_an_error():
    """It's the decoding library's own."""
    with pytest.raises(zlib.error):
        decoded("gzip", [b"no gzip at all"])


@pytest.mark.parametrize(("encoding", "name"), INSTALLED)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), content=st.binary(max_size=2_000))
def test_any_package_that_undoes_an_encoding_will_do(
    encoding: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
    content: bytes,
):
    """Httpx and httpx2 ask for different ones."""
    encode = ENCODERS[encoding, "usual"]
    with monkeypatch.context() as patch:
        use_only(name, encoding, patch)
        assert decoded(encoding, cut(data, encode(content))) == content


def test_a_brotli_that_knows_no_limit_is_not_used(
    tracker: Tracker, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
):
    """Versions before 1.2 would unpack a few bytes to hundreds of megabytes; it's said once."""

    class Decompressor:
        def process(self, piece: bytes) -> bytes:
            raise AssertionError(piece)

    old = ModuleType("brotli")
    vars(old)["Decompressor"] = Decompressor
    monkeypatch.setitem(sys.modules, "brotli", old)
    for _ in range(2):
        _sent(tracker, "br", b"encoded")
    assert [event.completion_source for event in tracker.llm_token_counts] == ["estimated"] * 2
    [warning] = warnings()
    assert "brotli>=1.2" in warning


# --- in little memory ----------------------------------------------------------------------

_SIZE = 64 * _MEGABYTE


@pytest.mark.parametrize(
    ("encoding", "name"), [("gzip", None), ("deflate", None), *INSTALLED, ("gzip, zstd", None)]
)
def test_a_little_that_stands_for_much_takes_little_memory(
    encoding: str, name: str | None, monkeypatch: pytest.MonkeyPatch
):
    """Output comes piece by piece, and nothing is decoded that isn't asked for."""
    use_only(name, encoding, monkeypatch)
    body = bytes(_SIZE)
    for one in encoding.split(", "):
        body = ENCODERS[one, "usual"](body)
    assert len(body) < _SIZE // 500
    decoder, size, longest = ContentDecoder(encoding), 0, 0
    tracemalloc.start()
    try:
        for plain in decoder.decode(body):
            size, longest = size + len(plain), max(longest, len(plain))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == _SIZE
    assert longest <= _PIECE
    assert most < 10 * _MEGABYTE


def test_a_zstd_window_that_takes_too_much_memory_is_an_error():
    """Nobody may send a window of more than 8 MiB over HTTP."""
    # A frame's header: its magic number, no size, and a window of 128 MiB; then an empty block.
    frame = bytes.fromhex("28b52ffd") + bytes([0, (27 - 10) << 3]) + bytes([1, 0, 0])
    with pytest.raises(Exception, match="too much memory"):
        decoded("zstd", [frame])


# --- on the way to a program ---------------------------------------------------------------

_USAGE = b'"usage": {"prompt_tokens": 17, "completion_tokens": 5, "total_tokens": 22}'


def _sent(tracker: Tracker, encoding: str, body: bytes) -> bytes:
    """Send a request that is answered like this, and read its answer as it comes."""
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    answer = httpx.Response(200, headers=headers, content=iter([body]))
    transport = WatchingTransport(tracker, httpx.MockTransport(lambda _: answer))
    url = "https://api.openai.com/v1/chat/completions"
    with httpx.Client(transport=transport) as sender, sender.stream("POST", url, json={}) as given:
        return b"".join(given.iter_raw())


def test_an_answer_that_unpacks_to_much_is_read_in_little_memory(tracker: Tracker):
    """Its figures are at its end."""
    body = WHOLE["zstd"](b'{"text": "' + b"a" * _SIZE + b'", ' + _USAGE + b"}")
    tracemalloc.start()
    try:
        assert _sent(tracker, "zstd", body) == body
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    [event] = tracker.llm_token_counts
    assert (event.total_token_count, event.source) == (22, "reported")
    assert most < 12 * _MEGABYTE


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What is logged of answers, as in a new process."""
    forget_notices()
    caplog.set_level(logging.WARNING, "llama_token_tracker")
    yield lambda: [message for message in caplog.messages if "tokenizer" not in message]
    forget_notices()


def test_an_encoding_that_nobody_knows_is_left_as_it_is(
    tracker: Tracker, warnings: Callable[[], list[str]]
):
    """It's said once; and some servers give a charset there, which changes nothing."""
    body = b"{" + _USAGE + b"}"
    for _ in range(2):
        assert _sent(tracker, "utf-8", body) == body
    assert [event.total_token_count for event in tracker.llm_token_counts] == [22, 22]
    [warning] = warnings()
    assert "'utf-8'" in warning


@pytest.mark.parametrize("encoding", ALTERNATIVES)
def test_an_encoding_whose_package_is_missing_is_said_once(
    encoding: str,
    tracker: Tracker,
    warnings: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
):
    """The answer's figures are then counted, not reported."""
    use_only(None, encoding, monkeypatch, none=True)
    for _ in range(2):
        _sent(tracker, encoding, b"\x0b\x02\x80encoded\x03")
    assert [event.source for event in tracker.llm_token_counts] != ["reported"] * 2
    [warning] = warnings()
    assert f"httpx[{'brotli' if encoding == 'br' else 'zstd'}]" in warning


def test_more_encodings_than_anybody_needs_are_not_undone(
    tracker: Tracker, warnings: Callable[[], list[str]]
):
    """Each would take memory of its own."""
    body = b"{" + _USAGE + b"}"
    for _ in range(9):
        body = gzip.compress(body)
    _sent(tracker, ", ".join(["gzip"] * 9), body)
    [event] = tracker.llm_token_counts
    assert event.source != "reported"
    [warning] = warnings()
    assert "9 encodings" in warning
