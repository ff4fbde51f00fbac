"""Which request of a watched client embedded which texts of LlamaIndex's open embedding calls."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker._names import SENDS_NO_LINE_ENDS
from llama_token_tracker.events.call import MAX_OPEN
from llama_token_tracker.events.transcripts import EmbeddedTexts
from llama_token_tracker.extraction import SILENT
from llama_token_tracker.extraction.texts import shown
from llama_token_tracker.llama_index.open_calls import OpenCall
from llama_token_tracker.llama_index.payloads import DICTS, is_image
from llama_token_tracker.llama_index.span_tree import embedding
from llama_token_tracker.tracking.correlation import AnsweredRequest


class Batch:
    """The embedding calls that are open within one span, and what the wire said to them.

    The batches of an asynchronous call are under way together, and a request tells only by its
    texts which of them it belongs to. What is told apart wrongly has the same texts, and costs
    the same.
    """

    refusal: Exception | None = None
    is_structured: bool = False

    def __init__(self) -> None:
        self.open = 0
        self.has_requests = self.has_lost = False
        self._is_closed = False
        # By their first text, those that no call has taken yet.
        self._waiting: dict[str, list[_Sent]] = {}

    def attach(self, request: AnsweredRequest) -> None:
        """Take in that a request is being answered."""
        with LOCK:
            self.has_requests = True
            if not self._is_closed:
                sent = _Sent(request, [_key(text) for text in request.texts() or ("",)])
                self._waiting.setdefault(sent.keys[0], []).append(sent)
                return
        request.disown()

    def lose(self, request: AnsweredRequest) -> None:
        """Take in that a request wasn't answered, and is counted by itself."""
        with LOCK:
            self.has_requests = self.has_lost = True
            for waiting in self._waiting.values():
                waiting[:] = [sent for sent in waiting if sent.request is not request]

    def take(
        self, chunks: Iterable[str]
    ) -> tuple[list[tuple[AnsweredRequest, list[str]]], list[str]]:
        """Find the requests that embedded these texts.

        Returns:
            Each request with those of the texts that it embedded, and the texts of none.
        """
        found: dict[_Sent, list[str]] = {}
        left: dict[str, list[str]] = {}
        for chunk in chunks:
            left.setdefault(_key(chunk), []).append(chunk)
        with LOCK:
            self._find_whole(left, found)
            rest = self._find_equal([chunk for same in left.values() for chunk in same], found)
            # An integration may send a text shortened, or with an instruction before it.
            rest = self._find_each(rest, _is_similar, found)
            if self.open <= 1:
                rest = self._find_each(rest, _is_any, found)
            for sent in found:
                self._waiting[sent.keys[0]].remove(sent)
        return [(sent.request, texts) for sent, texts in found.items()], rest

    def _find_whole(self, left: dict[str, list[str]], found: "dict[_Sent, list[str]]") -> None:
        """Find the requests all of whose texts are among those that are left.

        Others may have some of these texts, too, and belong to a call that ends later.
        """
        fitting = [sent for key in left for sent in self._waiting.get(key, ())]
        # The longest first: what fits a call wholly is its own.
        for sent in sorted(fitting, key=lambda sent: -len(sent.keys)):
            times = Counter(sent.keys).items()
            if all(len(left.get(text, ())) >= number for text, number in times):
                found[sent] = [left[text].pop(0) for text in sent.keys]
                sent.rest = []

    def _find_equal(self, chunks: list[str], found: "dict[_Sent, list[str]]") -> list[str]:
        """Find requests for texts that they sent as they are; the other texts are given back."""
        sent = {text for one in self._sent() for text in one.rest} if chunks else set[str]()
        # To ask a set is quicker than to ask each request for a text that none has sent.
        return [
            chunk
            for chunk in chunks
            if _key(chunk) not in sent or not self._find(chunk, _is_equal, found)
        ]

    def _find_each(
        self,
        chunks: list[str],
        is_akin: Callable[[str, str], bool],
        found: "dict[_Sent, list[str]]",
    ) -> list[str]:
        """Find requests for texts; those that none is found for are given back."""
        return [chunk for chunk in chunks if not self._find(chunk, is_akin, found)]

    def _find(
        self, chunk: str, is_akin: Callable[[str, str], bool], found: "dict[_Sent, list[str]]"
    ) -> bool:
        """Find a request for one text, by one of those that it sent and that nobody has taken."""
        key = _key(chunk)
        for sent in (*found, *self._sent()):
            for at, text in enumerate(sent.rest):
                if is_akin(key, text):
                    del sent.rest[at]
                    found.setdefault(sent, []).append(chunk)
                    return True
        return False

    def _sent(self) -> "Iterator[_Sent]":
        """The requests that no call has taken yet."""
        return chain.from_iterable(self._waiting.values())

    def close(self) -> None:
        """Give back the requests that no call has taken: they cost something all the same."""
        with LOCK:
            waiting = list(self._sent())
            self._waiting.clear()
            self._is_closed = True
        for sent in waiting:
            sent.request.disown()


def _is_equal(key: str, sent: str) -> bool:
    return key == sent


def _is_similar(key: str, sent: str) -> bool:
    return bool(sent) and (key.startswith(sent) or key in sent)


def _is_any(_key: str, _sent: str) -> bool:
    return True


def _key(text: str) -> str:
    """What a text is known by: OpenAI's integration sends spaces in the place of line ends."""
    return text.replace("\n", " ")


def _as_sent(request: AnsweredRequest, told: Sequence[str]) -> list[str]:
    """The texts of a request that belong to these of a call, which is known by other ones."""
    sent = request.texts()
    if len(sent) == len(told) == 1:
        return [*sent]
    by_key = {_key(text): text for text in sent}
    return [by_key.get(_key(text), text) for text in told]


class _Sent:
    """A request that no embedding call has taken yet.

    Attributes:
        request: The request.
        keys: What its texts are known by.
        rest: Those of them that no text of a call was found for.
    """

    __slots__ = ("keys", "request", "rest")

    def __init__(self, request: AnsweredRequest, keys: list[str]) -> None:
        self.request = request
        self.keys = keys
        self.rest = [*keys]


class Batches:
    """The open embedding calls of a framework, by the span they run in."""

    def __init__(self) -> None:
        self._by_span: dict[str, Batch] = {}

    def start(self, span_id: str) -> None:
        """Note that an embedding call has started in this span."""
        with LOCK:
            # Without the end of its span, one that failed would be kept for ever.
            oldest = next(iter(self._by_span)) if len(self._by_span) >= MAX_OPEN else None
            self._by_span.setdefault(span_id, Batch()).open += 1
        if oldest is not None and oldest != span_id:
            notice(
                "too many open embedding calls",
                MAX_OPEN,
                "the oldest is forgotten",
            )
            self.leave(oldest)

    def within(self, span_id: str) -> Batch | None:
        """The calls that are open in this very span."""
        return self._by_span.get(span_id)

    def end(self, span_id: str) -> None:
        """Note that one of the calls in this span has ended."""
        with LOCK:
            batch = self._by_span.get(span_id)
            if batch is None:
                return
            batch.open -= 1
        if batch.open <= 0:
            self.leave(span_id)

    def leave(self, span_id: str) -> None:
        """Note that the span is over, whether all its calls have ended or not."""
        with LOCK:
            batch = self._by_span.pop(span_id, None)
        if batch is not None:
            batch.close()

    def embeds(self, call: OpenCall) -> None:
        """Note that a call embeds texts, and which, as far as that is known."""
        call.nests = False
        call.operation = "embedding"
        call.texts = []
        if call.span_id is not None:
            self.start(call.span_id)
        method = embedding(call.span_id)
        if method is not None:
            call.texts, call.served = method.next_batch(self)

    def groups(self, call: OpenCall, chunks: Iterable[object]) -> list[EmbeddedTexts]:
        """Split what a call has embedded by who has told of its tokens.

        What a cache has served is left out.
        """
        named = [(shown(chunk), chunk) for chunk in chunks]
        requests, silent = self._requests_of(call, [text for text, _ in named])
        groups = [
            EmbeddedTexts(told, request.reported(), sent=_as_sent(request, told))
            for request, told in requests
        ]
        about: Any = call.about
        changes = type(about) in DICTS and about.get("class_name") in SENDS_NO_LINE_ENDS
        by_text, is_certain = dict(named), call.served is not None
        # What went through a method for texts is text, whatever it says.
        texts_alone = bool(call.texts)
        for is_picture, texts in groupby(
            silent, lambda text: not texts_alone and is_image(by_text[text])
        ):
            together = tuple(texts)
            if is_picture:
                notice("an image was embedded", together, "it is counted as nothing, and marked")
            sent = [_key(text) for text in together] if changes else None
            groups.append(EmbeddedTexts(together, SILENT, is_certain, is_picture, sent))
        return groups

    def _requests_of(
        self, call: OpenCall, texts: list[str]
    ) -> tuple[Sequence[tuple[AnsweredRequest, list[str]]], list[str]]:
        """The requests that a watched client has told of, with their texts, and the other texts."""
        served = call.served or ()
        span_id = call.span_id
        batch = None if span_id is None else self.within(span_id)
        if span_id is None or batch is None:
            return [], [text for text in texts if text not in served]
        requests, rest = batch.take(texts)
        if batch.has_requests and call.served is None:
            # So the client is watched, and what it didn't send came from the cache.
            rest = []
        self.end(span_id)
        return requests, [text for text in rest if text not in served]
