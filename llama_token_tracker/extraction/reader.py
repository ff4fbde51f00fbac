"""Where usage may sit in a response, and which finding to believe.

A response is searched in the places of `registry.WITHIN`. Each place that speaks a known shape
gives a `Finding`. Where several do, the one that knows more wins: the most buckets that hold more
than zero; among equals the place nearer to the wire. So Converse's `raw` beats the copy in
`additional_kwargs`, and Bedrock's metrics and Claude's own figures are never added up.
"""

from collections.abc import Collection, Iterable
from typing import Any, Final, TypeAlias, cast

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.extraction import registry
from llama_token_tracker.extraction.fields import Fields, as_fields, is_without
from llama_token_tracker.extraction.paths import Counts
from llama_token_tracker.extraction.registry import WITHIN, Catalogue, Route
from llama_token_tracker.extraction.reported import (
    DEFERRED,
    SILENT,
    Reported,
    is_of_output,
    knows,
    together,
)
from llama_token_tracker.extraction.request_ids import request_id_in
from llama_token_tracker.extraction.served import KEYS as SERVED_KEYS
from llama_token_tracker.extraction.served import served_in
from llama_token_tracker.extraction.shape import Plan, WireShape
from llama_token_tracker.pricing import UNSAID, Served
from llama_token_tracker.usage import Usage

_LONGEST_LIST: Final = 10_000
_MOST_CLASSES: Final = 512

Chunks: TypeAlias = list[object] | tuple[object, ...]


Finding: TypeAlias = tuple[str, Fields, Plan, bool]
"""Where a usage stands (the `body`, or a `copy` of it), the usage, how to read it, and whether it's
a field's value rather than the answer itself."""

GUARDED: Final = "guardrail_intervened"
"""Converse's reason to stop if a guardrail did, so that zeros are true. Source: Amazon Bedrock user
guide, "Use a guardrail with inference operations" (checked 2026-11-29)."""

_GUARDED: Final = (
    ("stopReason", GUARDED),
    ("stop_reason", GUARDED),
    ("amazon-bedrock-guardrailAction", "INTERVENED"),
)


_BEGUN: Final = ("in_progress", "queued")
"""Source: https://platform.openai.com/docs/guides/background (checked 2026-11-29)."""


def extract_usage(response: object) -> Usage | None:
    """Read the usage that a provider reported, whatever its shape.

    Args:
        response: A LlamaIndex `ChatResponse` or `CompletionResponse`, or a provider's own
            response or usage: a dict, an SDK's object, or a list of its chunks.

    Returns:
        Tokens in inclusive buckets, or `None` when the response carries no usage. What
        cannot be read is logged once and left out; nothing is raised.
    """
    return extract_reported(response).usage


def extract_reported(response: object) -> Reported:
    """Read the same, what of it wasn't understood, and how the call was served."""
    try:
        raw, copies = _opened(response)
        reported, served, request_id = _thoroughly(raw, copies), _served(raw), request_id_in(raw)
        if served is UNSAID and request_id is None:
            return reported
        # As `_replace`, which takes twice as long.
        return Reported(*reported[:-2], served, request_id)
    except Exception as error:  # noqa: BLE001 - a foreign object may raise anything when read
        notice("unreadable {}", error, "it counts as silent", type(response).__name__)
        return SILENT


def extract_served(response: object) -> Served:
    """Read how a provider says that a call was served.

    Args:
        response: As for `extract_usage`.
    """
    try:
        raw, _ = _opened(response)
    except Exception as error:  # noqa: BLE001 - whoever reads its usage says so
        pass_on(error)
        return UNSAID
    return _served(raw)


def _served(raw: object) -> Served:
    if not isinstance(raw, (list, tuple)):
        return served_in(raw)
    try:
        parts = _parts(cast("Chunks", raw))
    except Exception as error:  # noqa: BLE001 - whoever reads its usage says so
        pass_on(error)
        return UNSAID
    served = UNSAID
    # Of a stream the last word stands.
    for part in parts:
        served = served_in(part).filled(served)
    return served


def extract_fullest(places: Iterable[object]) -> Reported:
    """Read the usage of the place that knows most; among equals, of the one that comes first.

    Args:
        places: What `extract_usage` reads, those nearest to the wire first.
    """
    readings = [extract_reported(place) for place in places if place is not None]
    best = max(readings, key=_known_of, default=SILENT)
    served = best.served
    for reading in readings:
        served = served.filled(reading.served)
    return best._replace(
        served=served,
        not_understood=together(*(reading.not_understood for reading in readings)),
        explains_zero=any(reading.explains_zero for reading in readings),
        request_id=next((one.request_id for one in readings if one.request_id), None),
    )


def _known_of(reported: Reported) -> int:
    return -1 if reported.usage is None else knows(reported.usage)


UsageParts: TypeAlias = tuple[Route, Any, Any, Any]
"""What a usage may stand in: the field's place in the body, that field, what LlamaIndex copied, and
the fields that tell how the call was served, why its answer ended, and its request's id."""


def usage_parts(response: Any) -> UsageParts | None:
    """Take from a LlamaIndex response what its usage may stand in, to read it later.

    The rest of it, texts above all, need not be kept for that; and what the program does to the
    response afterwards changes nothing.

    Returns:
        What `extract_parts` reads; `None` if the response should be read at once, as its layout
        is new or unusual, or its message holds more than content.
    """
    try:
        answer = response.__dict__
        body: Any = answer["raw"]
        if body.__class__ is not dict:
            body = {} if body is None else as_fields(body)
        route = registry.current.routes[tuple(body)]
        name = route.only
        if name is None:
            return None
        message = answer.get("message")
        if message is not None and message.additional_kwargs:
            return None
        usage, copy = body.get(name), answer["additional_kwargs"]
        if usage is not None and usage.__class__ is dict:
            usage = usage.copy()
        served = route.take(body) if route.take is not None else ()
        return route, usage, copy.copy() if copy else None, served
    except Exception as error:  # noqa: BLE001 - nothing odd is judged here: it is read at once, with care
        pass_on(error)
        return None


def extract_parts(parts: UsageParts) -> Reported:
    """Read what `usage_parts` has taken from a response, as `extract_reported` reads that."""
    route, usage, copy, served = parts
    raw = dict(zip(route.served, served, strict=False))
    raw[route.only or ""] = usage
    return extract_reported({"raw": raw, "additional_kwargs": copy})


def is_silent(chunk: Any) -> bool:
    """Whether a chunk of a LlamaIndex stream surely holds no figures, as most don't.

    The look at it is quick: of one whose layout is new or unusual it says no.
    """
    try:
        body = chunk.raw
        if body is not None:
            names = registry.current.names_in.get(body.__class__)
            if names is not None and not body.__pydantic_extra__:
                fields = body.__dict__
            else:
                fields, names = body, _names_of(body)
                if names is None:
                    return False
            for name in names:
                if fields[name] is not None:
                    return False
        if chunk.additional_kwargs:
            return False
        message = chunk.__dict__.get("message")
        if message is not None and message.additional_kwargs:
            return False
    except Exception as error:  # noqa: BLE001 - nothing odd is judged here: it is read with care
        pass_on(error)
        return False
    return True


def _names_of(body: Any) -> tuple[str, ...] | None:
    """Which fields of a body may hold figures; `None` if it may be figures itself, or is new."""
    known = registry.current
    if body.__class__ is dict:
        route = known.routes[tuple(body)]
        return None if route.speaks else route.names
    _learn(body, known)
    return None


def _learn(body: Any, known: Catalogue) -> None:
    """Note which fields of a pydantic class may hold figures, for the next of its objects."""
    fields = as_fields(body)
    keys = tuple(cast("dict[str, object]", fields)) if type(fields) is dict else None
    route = None if keys is None else known.routes.get(keys)
    is_plain = route is not None and not route.speaks and not body.__pydantic_extra__
    if route is not None and is_plain and len(known.names_in) < _MOST_CLASSES:
        known.names_in[cast("type[object]", type(body))] = route.names


def _thoroughly(raw: object, copies: tuple[object, ...]) -> Reported:
    if isinstance(raw, (list, tuple)):
        return _of_chunks(cast("Chunks", raw)).read()
    unknown: list[str] = []
    best, known = SILENT, -1
    body = as_fields(raw)
    for _, fields, plan, is_field in _findings(body, copies):
        # What can't know more need not be added up, nor read at all if it may only hold counts.
        is_less = best.usage is not None and plan.most <= known
        if is_less and plan.is_plain:
            continue
        counts, strange = plan.read(fields, is_flat=not is_field)
        unknown += strange
        if not is_less:
            usage, doubts = plan.shape.read(counts)
            if usage is not None and (more := knows(usage)) > known:
                known = more
                best = Reported(usage, not_understood=doubts, shape=plan.shape.name)
    return _remarked(best, body, unknown)


_REMARKS: Final = frozenset({"messageStop", "error", "object", "status"}).union(
    key for key, _ in _GUARDED
)
"""The keys of an answer that say something beside its usage."""


def _remarked(reported: Reported, body: Fields | None, unknown: Collection[str]) -> Reported:
    """Add what an answer says beside its usage; if that's nothing, it's the very same."""
    if not unknown and (body is None or is_without(body, _REMARKS)):
        return reported
    is_guarded = body is not None and _is_guarded(body)
    signs: list[str] = []
    if body is not None and reported.usage is None:
        if describes_error(body):
            signs.append("error")
        if _has_begun(body):
            signs.append(DEFERRED)
    if not (unknown or is_guarded or signs):
        return reported
    doubts = together(reported.not_understood, unknown, signs)
    return reported._replace(not_understood=doubts, explains_zero=is_guarded)


def _is_guarded(body: Fields) -> bool:
    stop = as_fields(body.get("messageStop")) or body
    return bool([key for key, value in _GUARDED if stop.get(key) == value])


def describes_error(answer: Fields) -> bool:
    """Whether an answer, or a document of a stream, tells of an error, whatever its HTTP status.

    Source:
        OpenAI's form is nearly everybody's. Mistral's, and older vLLM's, is an `object` of that
        kind: https://docs.mistral.ai/api (checked 2026-11-30).
    """
    error = answer.get("error")
    is_named = isinstance(error, (str, dict)) and error not in ("", {})
    return is_named or answer.get("object") == "error"


def is_deferred(answer: object) -> bool:
    """Whether an answer says that it was only begun, and is to be retrieved later."""
    body = as_fields(answer)
    return body is not None and _has_begun(body)


def _has_begun(body: Fields) -> bool:
    status = body.get("status")
    return isinstance(status, str) and status in _BEGUN


def _findings(body: Fields | None, copies: tuple[object, ...]) -> list[Finding]:
    found: list[Finding] = []
    if body is not None:
        _search("body", body, found)
    for copy in copies:
        if copy and (body := as_fields(copy)) is not None:
            _search("copy", body, found)
    return found


def _opened(response: object) -> tuple[object, tuple[object, ...]]:
    """The provider's own response, and the places where LlamaIndex copies usage to."""
    fields = as_fields(response)
    if fields is None:
        return response, ()
    raw = fields.get("raw")
    message = as_fields(fields.get("message"))
    copies = (
        None if message is None else message.get("additional_kwargs"),
        fields.get("additional_kwargs"),
    )
    return (response if raw is None else raw), copies


def _search(place: str, body: Fields, found: list[Finding]) -> None:
    """Look for usage in `body` and in those of its fields that may hold one."""
    known = registry.current
    names: Iterable[str] = WITHIN
    speaks = True
    if type(body) is dict:
        keys = tuple(body)
        route = known.routes.get(keys)
        if route is None:
            route = known.route(keys)
        speaks, names = route.speaks, route.names
    if speaks:
        _take(known, place, body, found, is_field=False)
    for name in names:
        fields = as_fields(body.get(name))
        if fields is None:
            continue
        if not WITHIN[name]:
            _take(known, place, fields, found)
        for inner in WITHIN[name]:
            if (inner_fields := as_fields(fields.get(inner))) is not None:
                _take(known, place, inner_fields, found)
    if not found:
        choices = body.get("choices")
        for choice in cast("Chunks", choices) if isinstance(choices, (list, tuple)) else ():
            # Moonshot's streams: https://github.com/earendil-works/pi/issues/2017
            # (checked 2026-11-29).
            fields = as_fields(choice)
            usage = None if fields is None else as_fields(fields.get("usage"))
            if usage is not None:
                _take(known, place, usage, found)


def _take(
    known: Catalogue, place: str, usage: Fields, found: list[Finding], *, is_field: bool = True
) -> None:
    """Note one usage in `found`, if it speaks a known shape."""
    if type(usage) is dict:
        items = cast("dict[str, object]", usage).items()
        keys = tuple([key for key, value in items if value is not None])
    else:
        keys = tuple([key for key in known.keys if usage.get(key) is not None])
    try:
        plan = known.plans[keys]
    except KeyError:
        plan = known.plan(keys)
    if plan is not None:
        found.append((place, usage, plan, is_field))


_FIGURES: Final = Reported(Usage())
"""Some figures or other."""


class StreamedUsage:
    """Merges the figures of a stream's chunks, field by field.

    Figures in a stream are cumulative: the last one that is not null stands, and nothing is
    ever added. Findings of different shapes or places are kept apart until one is chosen.
    """

    __slots__ = ("_counts", "_first", "_is_provisional", "_last", "_remarks")

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], tuple[WireShape, Counts]] = {}
        self._remarks = SILENT
        # Whether the output is only what Anthropic's streams begin with.
        self._is_provisional = False
        # The chunks that tell how the call was served; looked at when somebody asks.
        self._first: object = None
        self._last: object = None

    def add(self, chunk: object) -> bool:
        """Take in one chunk and say whether it held any new figure."""
        try:
            raw, copies = _opened(chunk)
            if isinstance(raw, (list, tuple)):
                # No list within a list: a stream of streams is nobody's format.
                parts = _parts(cast("Chunks", raw))
                return any([self._take_in(*_opened(part)) for part in parts])  # noqa: C419 - all
            return self._take_in(raw, copies)
        except Exception as error:  # noqa: BLE001 - a foreign object may raise anything when read
            notice("unreadable {}", error, "it counts as silent", type(chunk).__name__)
            return False

    def _keep(self, raw: object) -> None:
        if type(raw) is dict:
            # The rest may be long.
            body = cast("dict[str, object]", raw)
            raw = {key: body[key] for key in SERVED_KEYS if key in body} or None
        if raw is None:
            return
        if self._first is None:
            self._first = raw
        self._last = raw

    def _take_in(self, raw: object, copies: tuple[object, ...]) -> bool:
        self._keep(raw)
        body = as_fields(raw)
        unknown: list[str] = []
        news = False
        for place, usage, plan, is_field in _findings(body, copies):
            counts, strange = plan.read(usage, is_flat=not is_field)
            unknown += strange
            known = self._counts.setdefault((place, plan.shape.name), (plan.shape, {}))[1]
            # A zero takes nothing back: figures are cumulative.
            fresh = {path: n for path, n in counts.items() if n or path not in known}
            unknown += self._shrunk(fresh, known)
            if fresh.items() - known.items():
                known.update(fresh)
                news = True
                self._is_provisional = body is not None and body.get("type") == "message_start"
        # An error that comes after figures takes nothing back.
        before = _FIGURES if self._counts else SILENT
        remarks = _remarked(before, body, unknown)
        if remarks is not before:
            so_far = self._remarks
            self._remarks = SILENT._replace(
                not_understood=together(so_far.not_understood, remarks.not_understood),
                explains_zero=remarks.explains_zero or so_far.explains_zero,
            )
        return news

    def _shrunk(self, fresh: Counts, known: Counts) -> list[str]:
        """Figures that have become less: the newest are parts, or the older ones weren't sums."""
        return [
            path
            for path, count in fresh.items()
            if count < known.get(path, 0) and not (self._is_provisional and is_of_output(path))
        ]

    def read(self) -> Reported:
        """Read what was reported so far.

        Here the copies were often read first, so that nearness is told by the place.
        """
        readings: list[tuple[tuple[int, bool, bool], Reported]] = []
        for (place, _), (shape, counts) in self._counts.items():
            usage, doubts = shape.read(counts)
            if usage is not None:
                sure = shape.sure_in_stream_with
                is_complete = not sure or any(key in counts for key in sure)
                rank = knows(usage), is_complete, place == "body"
                reported = Reported(
                    usage, is_complete, not self._is_provisional, doubts, shape.name
                )
                readings.append((rank, reported))
        best = max(readings, key=lambda ranked: ranked[0])[1] if readings else SILENT
        remarks, served = self._remarks, served_in(self._last)
        if self._first is not self._last:
            served = served.filled(served_in(self._first))
        if remarks is SILENT and served is UNSAID:
            return best
        return best._replace(
            not_understood=together(best.not_understood, remarks.not_understood),
            explains_zero=remarks.explains_zero,
            served=served,
        )


def _of_chunks(chunks: Chunks) -> StreamedUsage:
    """Merge a list of chunks: a stream that somebody kept."""
    stream = StreamedUsage()
    for chunk in _parts(chunks):
        stream.add(chunk)
    return stream


def _parts(chunks: Chunks) -> list[object]:
    return [chunk for chunk in chunks[:_LONGEST_LIST] if not isinstance(chunk, (list, tuple))]
