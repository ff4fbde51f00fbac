"""Where usage may sit in a response, and which finding to believe.

A response is searched in the places below. Each place that speaks a known shape gives a
`Finding`. Where several do, the one that knows more wins: the most buckets that hold more
than zero; among equals the place nearer to the wire. So Converse's `raw` beats the copy in
`additional_kwargs`, and Bedrock's metrics and Claude's own figures are never added up.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias, cast

from llama_token_tracker._log_once import notice
from llama_token_tracker.extraction.shape import (
    Counts,
    Fields,
    Glance,
    Glanced,
    Plan,
    WireShape,
    as_fields,
    remember,
)
from llama_token_tracker.extraction.shapes import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    langchain,
    ollama,
    openai,
)
from llama_token_tracker.usage import WHOLE_SUMS, Usage

SHAPES: Final[tuple[WireShape, ...]] = (
    # Anthropic's marks are the plainest, so whoever has marks of their own comes first; and
    # LangChain's copies are in others' words, but for their marks.
    *langchain.SHAPES,
    *openai.SHAPES,
    *bedrock.SHAPES,
    *gemini.SHAPES,
    *cohere.SHAPES,
    *ollama.SHAPES,
    *anthropic.SHAPES,
)

_MARKS: Final = {
    mark: rank for rank, shape in reversed(list(enumerate(SHAPES))) for mark in shape.marks
}
_KEYS: Final = tuple(sorted({key for shape in SHAPES for key in shape.outer_keys()}))
_TELLING: Final = frozenset(_MARKS).union(_KEYS)

WITHIN: Final[dict[str, tuple[str, ...]]] = {
    "usage": (),
    "token_usage": (),
    "usage_metadata": (),
    "usageMetadata": (),
    "amazon-bedrock-invocationMetrics": (),
    "metadata": ("usage",),
    "data": ("usage",),
    "response": ("usage", "meta", "usage_metadata"),
    "message": ("usage",),
    "delta": ("usage",),
    "meta": (),
    "x_groq": ("usage",),
}
"""Fields that hold a usage, and those inside them that do."""

_LONGEST_LIST: Final = 10_000

Chunks: TypeAlias = list[object] | tuple[object, ...]


Finding: TypeAlias = tuple[str, Fields, Plan]
"""Where a usage stands (the `body`, or a `copy` of it), the usage, and how to read it."""


class Reading(NamedTuple):
    """The usage that a response states, and whether all of its input and output surely is in it."""

    usage: Usage
    input_is_sure: bool = True
    output_is_sure: bool = True


def extract_usage(response: object) -> Usage | None:
    """Read the usage that a provider reported, whatever its shape.

    Args:
        response: A LlamaIndex `ChatResponse` or `CompletionResponse`, or a provider's own
            response or usage: a dict, an SDK's object, or a list of its chunks.

    Returns:
        Tokens in inclusive buckets, or `None` when the response carries no usage. What
        cannot be read is logged once and left out; nothing is raised.
    """
    glanced = plainly_reported(response)
    if glanced is not None:
        _, _, glance, values = glanced
        return glance.usage(values)
    return carefully_reported(response)


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


def plainly_reported(response: Any) -> Glanced | None:
    """Read the sums of the commonest layout: one usage in the body, and copies that know no more.

    This gives what `carefully_reported` gives, several times as fast, and leaves to it
    whatever is not as plain as that: it runs once per call, in the user's own.

    Returns:
        The sums, and how to read all else; `None` for any other layout.
    """
    try:
        answer = response.__dict__
        body: Any = answer["raw"]
        if body is None:
            return None
        if body.__class__ is not dict:
            body = as_fields(body)
        place = _only_one[tuple(body)]
        usage: Any = body[place.key]
        if usage.__class__ is not dict:
            usage = as_fields(usage)
        keys, glance = place.newest
        glanced = glance.look(usage) if keys == tuple(usage) else None
        if glanced is None:
            glanced = place.another_look(usage)
        if glanced is None:
            return None
        copy, message = answer["additional_kwargs"], answer.get("message")
        inner = None if message is None else message.additional_kwargs
        if copy or inner:
            input_tokens, output_tokens, _, _ = glanced
            # A zero tells nothing. An input and an output are as much as most copies hold.
            poor = _poor_copies if input_tokens and output_tokens else ()
            if copy and tuple(copy) not in poor and _may_know_more(copy, glanced):
                return None
            if inner and inner is not copy and tuple(inner) not in poor:
                return None if _may_know_more(inner, glanced) else glanced
    except Exception:  # noqa: BLE001 - nothing odd is judged here: that takes care
        return None
    return glanced


def says_nothing(response: Any) -> bool:
    """Whether a response surely holds no usage; the look at it is quick, and may miss that."""
    try:
        answer = response.__dict__
        raw: Any = answer["raw"]
        if raw is not None and (raw.__class__ is not dict or _routes.get(tuple(raw)) != _NOWHERE):
            return False
        message = answer.get("message")
        copy = None if message is None else message.additional_kwargs
        return not (copy or answer["additional_kwargs"])
    except Exception:  # noqa: BLE001 - nothing odd is judged here: that takes care
        return False


def carefully_reported(response: object) -> Usage | None:
    """Read the usage of any response, wherever it stands; as `extract_usage`."""
    try:
        return _thoroughly(response)
    except Exception as error:  # noqa: BLE001 - a foreign object may raise anything when read
        notice(f"unreadable {type(response).__name__}", error, "it counts as silent")
        return None


def _may_know_more(copy: Any, glanced: Glanced) -> bool:
    """Whether a copy may fill more buckets than a usage does; a zero tells nothing."""
    input_tokens, output_tokens, glance, values = glanced
    least = bool(input_tokens) + bool(output_tokens)
    most = sum([number for key, number in _copies[tuple(copy)] if copy[key]])
    return most > least and most > knows(glance.usage(values))


def _thoroughly(response: object) -> Usage | None:
    found = find(response)
    if isinstance(found, StreamedUsage):
        reading = found.read()
        return None if reading is None else reading.usage
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
            _learn_copy(body)
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
    names: Iterable[str] = WITHIN
    speaks = True
    if type(body) is dict:
        keys = tuple(body)
        route = _routes.get(keys)
        if route is None:
            route = remember(_routes, keys, _route(keys))
        speaks, names = route
    if speaks:
        _take(place, body, found)
    for name in names:
        fields = as_fields(body.get(name))
        if fields is None:
            continue
        if not WITHIN[name]:
            _take(place, fields, found)
        for inner in WITHIN[name]:
            if (inner_fields := as_fields(fields.get(inner))) is not None:
                _take(place, inner_fields, found)


_NOWHERE: Final[tuple[bool, tuple[str, ...]]] = (False, ())
_routes: dict[tuple[str, ...], tuple[bool, tuple[str, ...]]] = {}


class _Place:
    """Where the bodies of one form hold their only usage.

    Attributes:
        key: The key of that.
        newest: All keys of the newest usage there that was read in one look, and how that was.
    """

    __slots__ = ("key", "newest")

    def __init__(self, key: str) -> None:
        self.key = key
        self.newest: tuple[tuple[str, ...] | None, Any] = (None, None)

    def another_look(self, usage: dict[str, Any]) -> Glanced | None:
        """Look at a usage in all ways that are known for its keys.

        Raises:
            KeyError: None is.
        """
        keys = tuple(usage)
        for glance in _glances[keys]:
            glanced = glance.look(usage)
            if glanced is not None:
                self.newest = keys, glance
                return glanced
        return None


_only_one: dict[tuple[str, ...], _Place] = {}
"""By all keys of a body that can hold only one usage, the place of that."""


def _route(keys: tuple[str, ...]) -> tuple[bool, tuple[str, ...]]:
    speaks = any(key in _MARKS for key in keys)
    names = tuple(key for key in keys if key in WITHIN)
    if not speaks and len(names) == 1 and not WITHIN[names[0]]:
        remember(_only_one, keys, _Place(names[0]))
    return speaks, names


_copies: dict[tuple[str, ...], tuple[tuple[str, int], ...]] = {}
"""By all keys of a copy, how many buckets each of them can fill at most."""
_poor_copies: set[tuple[str, ...]] = set()
"""All keys of such a copy, if together they can fill no more than two buckets."""


def _learn_copy(copy: Fields) -> None:
    if type(copy) is not dict or (keys := tuple(copy)) in _copies:
        return
    if not any(key in WITHIN for key in keys):
        plan = _plan(keys)
        remember(_copies, keys, () if plan is None else tuple(plan.filled().items()))
        if keys in _copies and (plan is None or plan.most <= len(WHOLE_SUMS)):
            _poor_copies.add(keys)


_plans: dict[tuple[str, ...], Plan | None] = {}


_MOST_GLANCES: Final = 8
_glances: dict[tuple[str, ...], list[Glance]] = {}
"""By all keys of a usage, null or not, how to read it in one look."""


def _take(place: str, usage: Fields, found: list[Finding]) -> None:
    """Note one usage in `found`, if it speaks a known shape."""
    if type(usage) is dict:
        items = cast("dict[str, object]", usage).items()
        keys = tuple([key for key, value in items if value is not None])
    else:
        keys = tuple([key for key in _KEYS if usage.get(key) is not None])
    try:
        plan = _plans[keys]
    except KeyError:
        plan = remember(_plans, keys, _plan(keys))
    if type(usage) is dict and plan is not None:
        _learn(plan, tuple(usage), keys)
    if plan is not None:
        found.append((place, usage, plan))


def _plan(keys: tuple[str, ...]) -> Plan | None:
    ranks = [_MARKS[key] for key in keys if key in _MARKS]
    return SHAPES[min(ranks)].plan(keys) if ranks else None


def _learn(plan: Plan, keys: tuple[str, ...], filled: tuple[str, ...]) -> None:
    """Remember how to glance at usages with these keys, of which the others are null."""
    glances = _glances.get(keys)
    if glances is None:
        glances = remember(_glances, keys, [])
    nulls = tuple([key for key in keys if key in _TELLING and key not in filled])
    if len(glances) < _MOST_GLANCES and all(glance.nulls != nulls for glance in glances):
        glance = plan.glance(nulls)
        if glance is not None:
            glances.append(glance)


class StreamedUsage:
    """Merges the figures of a stream's chunks, field by field.

    Figures in a stream are cumulative: the last one that is not null stands, and nothing is
    ever added. Findings of different shapes or places are kept apart until one is chosen.
    """

    __slots__ = ("_heard",)

    def __init__(self) -> None:
        self._heard: dict[tuple[str, str], tuple[WireShape, Counts]] = {}

    def hear(self, chunk: object) -> bool:
        """Take in one chunk and say whether it held any new figure."""
        try:
            raw, copies = _opened(chunk)
            if isinstance(raw, list | tuple):
                # No list within a list: a stream of streams is nobody's format.
                news = [
                    self._take_in(_findings(*_opened(part))) for part in _parts(cast("Chunks", raw))
                ]
                return any(news)
            return self._take_in(_findings(raw, copies))
        except Exception as error:  # noqa: BLE001 - a foreign object may raise anything when read
            notice(f"unreadable {type(chunk).__name__}", error, "it counts as silent")
            return False

    def _take_in(self, found: list[Finding]) -> bool:
        news = False
        for place, usage, plan in found:
            counts = plan.counts(usage)
            known = self._heard.setdefault((place, plan.shape.name), (plan.shape, {}))[1]
            if counts.items() - known.items():
                known.update(counts)
                news = True
        return news

    def read(self) -> Reading | None:
        """Read what was reported so far, or `None` if nothing was.

        Here the copies were often heard first, so that nearness is told by the place.
        """
        readings: list[tuple[tuple[int, bool, bool], Reading]] = []
        for (place, _), (shape, counts) in self._heard.items():
            usage = shape.usage(counts)
            if usage is not None:
                sure = shape.sure_in_stream_with
                is_sure = not sure or any(key in counts for key in sure)
                rank = knows(usage), is_sure, place == "body"
                readings.append((rank, Reading(usage, is_sure)))
        return max(readings, key=lambda ranked: ranked[0])[1] if readings else None


def _of_chunks(chunks: Chunks) -> StreamedUsage:
    """Merge a list of chunks: a stream that somebody kept."""
    stream = StreamedUsage()
    for chunk in _parts(chunks):
        stream.hear(chunk)
    return stream


def _parts(chunks: Chunks) -> list[object]:
    return [chunk for chunk in chunks[:_LONGEST_LIST] if not isinstance(chunk, list | tuple)]
