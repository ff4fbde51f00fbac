"""Where usage may sit in a response, and which finding to believe.

A response is searched in the places of `registry.WITHIN`. Each place that speaks a known shape
gives a `Finding`. Where several do, the one that knows more wins: the most buckets that hold more
than zero; among equals the place nearer to the wire. So Converse's `raw` beats the copy in
`additional_kwargs`, and Bedrock's metrics and Claude's own figures are never added up.
"""

from collections.abc import Iterable
from typing import Any, Final, TypeAlias, cast

from llama_token_tracker._log_once import notice
from llama_token_tracker.extraction import registry
from llama_token_tracker.extraction.fields import Fields, as_fields
from llama_token_tracker.extraction.paths import Counts
from llama_token_tracker.extraction.registry import WITHIN, Catalogue
from llama_token_tracker.extraction.reported import SILENT, Reported
from llama_token_tracker.extraction.served import KEYS as SERVED_KEYS
from llama_token_tracker.extraction.served import served_in
from llama_token_tracker.extraction.shape import Plan, WireShape, remember
from llama_token_tracker.pricing import UNSAID, Served
from llama_token_tracker.usage import Usage

_LONGEST_LIST: Final = 10_000

Chunks: TypeAlias = list[object] | tuple[object, ...]


Finding: TypeAlias = tuple[str, Fields, Plan]
"""Where a usage stands (the `body`, or a `copy` of it), the usage, and how to read it."""


def extract_usage(response: object) -> Usage | None:
    """Read the usage that a provider reported, whatever its shape.

    Args:
        response: A LlamaIndex `ChatResponse` or `CompletionResponse`, or a provider's own
            response or usage: a dict, an SDK's object, or a list of its chunks.

    Returns:
        Tokens in inclusive buckets, or `None` when the response carries no usage. What
        cannot be read is logged once and left out; nothing is raised.
    """
    try:
        return _thoroughly(response)
    except Exception as error:  # noqa: BLE001 - a foreign object may raise anything when read
        notice(f"unreadable {type(response).__name__}", error, "it counts as silent")
        return None


def extract_reported(response: object) -> Reported:
    """Read the usage that a provider reported, and how it says that the call was served.

    Args:
        response: As for `extract_usage`.
    """
    return Reported(extract_usage(response), served=extract_served(response))


def extract_served(response: object) -> Served:
    """Read how a provider says that a call was served.

    Args:
        response: As for `extract_usage`.
    """
    try:
        raw, _ = _opened(response)
        parts = _parts(cast("Chunks", raw)) if isinstance(raw, list | tuple) else [raw]
    except Exception:  # noqa: BLE001 - whoever reads its usage says so
        return UNSAID
    served = UNSAID
    # Of a stream the last word stands.
    for part in parts:
        served = served_in(part).filled(served)
    return served


def extract_fullest(places: Iterable[object]) -> Usage | None:
    """Read the usage of the place that knows most; among equals, of the one that comes first.

    Args:
        places: What `extract_usage` reads, those nearest to the wire first.
    """
    best: Usage | None = None
    for place in places:
        usage = None if place is None else extract_usage(place)
        if usage is not None and (best is None or knows(usage) > knows(best)):
            best = usage
    return best


UsageParts: TypeAlias = tuple[str, Any, Any, Any, Any]
"""What a usage may stand in: the name of a field, that field, what LlamaIndex copied, and the
fields that tell how the call was served."""


def usage_parts(response: Any) -> UsageParts | None:
    """Take from a LlamaIndex response what its usage may stand in, to read it later.

    The rest of it, texts above all, need not be kept for that; and what the program does to the
    response afterwards changes nothing.

    Returns:
        What `extract_parts` reads; `None` if the response should be read at once, as its layout
        is new or unusual.
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
        usage = body[name] if name else None
        if usage is not None and usage.__class__ is dict:
            usage = usage.copy()
        copy, message = answer["additional_kwargs"], answer.get("message")
        inner = message.additional_kwargs if message is not None else None
        served = {key: body[key] for key in route.served}
        return name, usage, inner.copy() if inner else None, copy.copy() if copy else None, served
    except Exception:  # noqa: BLE001 - nothing odd is judged here: it is read at once, with care
        return None


def extract_parts(parts: UsageParts) -> Reported:
    """Read what `usage_parts` has taken from a response, as `extract_reported` reads that."""
    name, usage, inner, copy, served = parts
    message = {"additional_kwargs": inner}
    return extract_reported(
        {"raw": {**served, name: usage}, "message": message, "additional_kwargs": copy}
    )


def is_silent(chunk: Any) -> bool:
    """Whether a chunk of a LlamaIndex stream surely holds no figures, as most don't.

    The look at it is quick: of one whose layout is new or unusual it says no.
    """
    try:
        answer = chunk.__dict__
        body = answer["raw"]
        kind, known = body.__class__, registry.current
        names = known.names_in.get(kind)
        if names is not None and not body.__pydantic_extra__:
            body = body.__dict__
        elif kind is dict:
            route = known.routes[tuple(body)]
            names = None if route.speaks else route.names
        else:
            names = _names_of(body, known)
        if names is None:
            return False
        for name in names:
            if body[name] is not None:
                return False
        message = answer.get("message")
        inner = None if message is None else message.additional_kwargs
        return not (inner or answer["additional_kwargs"])
    except Exception:  # noqa: BLE001 - nothing odd is judged here: it is read with care
        return False


def _names_of(body: Any, known: Catalogue) -> tuple[str, ...] | None:
    if body is None:
        return ()
    fields = as_fields(body)
    keys = tuple(cast("dict[str, object]", fields)) if type(fields) is dict else None
    route = None if keys is None else known.routes.get(keys)
    if route is not None and not route.speaks and not body.__pydantic_extra__:
        remember(known.names_in, cast("type[object]", type(body)), route.names)
    return None


def _thoroughly(response: object) -> Usage | None:
    found = find(response)
    if isinstance(found, StreamedUsage):
        return found.read().usage
    best: Usage | None = None
    known = 0
    for _, fields, plan in found:
        # What cannot know more need not be read at all.
        if best is None:
            best = plan.usage(fields)
        elif plan.most > (known := known or knows(best)):
            usage = plan.usage(fields)
            if usage is not None and knows(usage) > known:
                best, known = usage, knows(usage)
    return best


def knows(usage: Usage) -> int:
    """In how many buckets a usage holds more than zero."""
    return len([count for count in usage.__dict__.values() if count])


def with_parts(reported: Reported, other: Reported) -> Reported:
    """The same figures with their parts, where another place states those as well."""
    known, more = reported.usage, other.usage
    reported = reported._replace(served=reported.served.filled(other.served))
    if (
        more is not None
        and known is not None
        and (more.input_tokens, more.output_tokens) == (known.input_tokens, known.output_tokens)
        and knows(more) > knows(known)
    ):
        return reported._replace(usage=more)
    return reported


def find(response: object) -> "list[Finding] | StreamedUsage":
    """Find every usage in a response, those nearest to the wire first.

    Args:
        response: As for `extract_usage`.

    Returns:
        The findings; those of a list of chunks come merged, as of a stream.
    """
    raw, copies = _opened(response)
    if isinstance(raw, list | tuple):
        return _of_chunks(cast("Chunks", raw))
    return _findings(raw, copies)


def _findings(raw: object, copies: tuple[object, ...]) -> list[Finding]:
    found: list[Finding] = []
    if (body := as_fields(raw)) is not None:
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
        _take(known, place, body, found)
    for name in names:
        fields = as_fields(body.get(name))
        if fields is None:
            continue
        if not WITHIN[name]:
            _take(known, place, fields, found)
        for inner in WITHIN[name]:
            if (inner_fields := as_fields(fields.get(inner))) is not None:
                _take(known, place, inner_fields, found)


def _take(known: Catalogue, place: str, usage: Fields, found: list[Finding]) -> None:
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
        found.append((place, usage, plan))


class StreamedUsage:
    """Merges the figures of a stream's chunks, field by field.

    Figures in a stream are cumulative: the last one that is not null stands, and nothing is
    ever added. Findings of different shapes or places are kept apart until one is chosen.
    """

    __slots__ = ("_counts", "_first", "_last")

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], tuple[WireShape, Counts]] = {}
        # The chunks that tell how the call was served; looked at when somebody asks.
        self._first: object = None
        self._last: object = None

    def add(self, chunk: object) -> bool:
        """Take in one chunk and say whether it held any new figure."""
        try:
            raw, copies = _opened(chunk)
            if isinstance(raw, list | tuple):
                # No list within a list: a stream of streams is nobody's format.
                news = [self.add(part) for part in _parts(cast("Chunks", raw))]
                return any(news)
            self._keep(raw)
            return self._take_in(_findings(raw, copies))
        except Exception as error:  # noqa: BLE001 - a foreign object may raise anything when read
            notice(f"unreadable {type(chunk).__name__}", error, "it counts as silent")
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

    def _take_in(self, found: list[Finding]) -> bool:
        news = False
        for place, usage, plan in found:
            counts = plan.counts(usage)
            known = self._counts.setdefault((place, plan.shape.name), (plan.shape, {}))[1]
            if counts.items() - known.items():
                known.update(counts)
                news = True
        return news

    def read(self) -> Reported:
        """Read what was reported so far.

        Here the copies were often read first, so that nearness is told by the place.
        """
        readings: list[tuple[tuple[int, bool, bool], Reported]] = []
        for (place, _), (shape, counts) in self._counts.items():
            usage = shape.usage(counts)
            if usage is not None:
                sure = shape.sure_in_stream_with
                is_complete = not sure or any(key in counts for key in sure)
                rank = knows(usage), is_complete, place == "body"
                readings.append((rank, Reported(usage, is_complete)))
        best = max(readings, key=lambda ranked: ranked[0])[1] if readings else SILENT
        return best._replace(served=served_in(self._last).filled(served_in(self._first)))


def _of_chunks(chunks: Chunks) -> StreamedUsage:
    """Merge a list of chunks: a stream that somebody kept."""
    stream = StreamedUsage()
    for chunk in _parts(chunks):
        stream.add(chunk)
    return stream


def _parts(chunks: Chunks) -> list[object]:
    return [chunk for chunk in chunks[:_LONGEST_LIST] if not isinstance(chunk, list | tuple)]
