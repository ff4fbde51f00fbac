"""Which requests are counted, and how each is read: one row an operation of a provider's API.

A row says by which host, method and path such requests are known. Most paths are known whatever
the host, for many speak as OpenAI does. What is in no row, as `count_tokens`, isn't counted.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import unquote

from llama_token_tracker._lock import LOADING
from llama_token_tracker._names import (
    ANTHROPIC,
    BEDROCK,
    BEDROCK_SERVICE,
    COHERE,
    DRAWS,
    EMBEDS,
    GEMINI,
    MISTRAL,
    OLLAMA,
    OPENAI,
    PERPLEXITY,
    RERANKS,
    SPOKEN_BY_OTHERS,
    VERTEX_AI,
    XAI,
    XAI_HOST,
    at_host,
)
from llama_token_tracker.errors import WireFormatError
from llama_token_tracker.events.event import Operation
from llama_token_tracker.pricing import UNSAID, Served
from llama_token_tracker.wire import dialects
from llama_token_tracker.wire.dialects import Dialect

_CHECKED: Final = date(2026, 11, 22)
_KINDS: Final = get_args(Operation)


@dataclass(frozen=True, kw_only=True)
class WireOperation:
    """An operation that uses tokens.

    Attributes:
        paths: How the paths of its requests end; `{model}` stands where they name the model, and
            `{}` where they name something else.
        kind: What is asked for, as events name it; "by model" if the model's name tells.
        dialect: How its requests and answers are worded.
        provider: Whose it is, by OpenTelemetry's name; with a `host` of its own always, without
            one if the host is none of those that are known. OpenAI's and Anthropic's formats are
            spoken by others as well: at an unknown host nobody knows by whom.
        source: Where that is documented.
        checked: When it was compared with that.
        host: How the host's name ends, or what botocore calls the service; any, if empty.
        method: The method of its requests.

    Raises:
        WireFormatError: No request could ever be found by it.
    """

    paths: tuple[str, ...]
    kind: "Operation | Literal['by model']"
    dialect: Dialect
    provider: str
    source: str
    checked: date = _CHECKED
    host: str = ""
    method: str = "POST"

    def __post_init__(self) -> None:
        """Refuse what is no row.

        Raises:
            WireFormatError: No request could ever be found by it.
        """
        problem = None
        if not (isinstance(self.paths, tuple) and self.paths):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' own
            problem = f"paths is {self.paths!r:.60}; give a tuple, as ('/v1/chat',)."
        elif not all(str(path).startswith("/") for path in self.paths):
            problem = f"a path of {self.paths} begins with no slash; write it as '/v1/chat'."
        elif self.kind not in (*_KINDS, "by model"):
            problem = f"kind is {self.kind!r}; give one of {', '.join(_KINDS)}."
        elif not isinstance(self.dialect, Dialect):  # pyright: ignore[reportUnnecessaryIsInstance]
            problem = f"its dialect is a {type(self.dialect).__name__}; give a Dialect."
        if problem is not None:
            msg = f"no request can be found by an operation of {self.provider!r}: {problem}"
            raise WireFormatError(msg)


class Match(NamedTuple):
    """What is known of a request by where it's sent.

    Attributes:
        operation: The row that it fits.
        kind: What is asked for.
        provider: Whom it's sent to; `None` if nobody knows the host, and many speak like this.
        model: The model, or "" if the body alone names it.
        sent: How it's served, as far as the host's name tells: in which region.
    """

    operation: WireOperation
    kind: Operation
    provider: str | None
    model: str
    sent: Served = UNSAID

    @property
    def dialect(self) -> Dialect:
        """How the request and its answer are worded."""
        return self.operation.dialect


def _row(
    paths: str | tuple[str, ...],
    kind: "Operation | Literal['by model']",
    dialect: Dialect,
    provider: str,
    source: str,
    host: str = "",
) -> WireOperation:
    given = (paths,) if isinstance(paths, str) else paths
    return WireOperation(
        paths=given, kind=kind, dialect=dialect, provider=provider, source=source, host=host
    )


_OPENAI: Final = "https://platform.openai.com/docs/api-reference/"
_ANTHROPIC: Final = "https://docs.anthropic.com/en/api/"
_MISTRAL: Final = "https://docs.mistral.ai/api/"
_COHERE: Final = "https://docs.cohere.com/"
_GEMINI: Final = "https://ai.google.dev/api/"
_OLLAMA: Final = "https://docs.ollama.com/api/"
_XAI: Final = "https://docs.x.ai/docs/api-reference#"
_BEDROCK: Final = "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_"


def _google(
    *methods: str, under: Iterable[str] = ("models", "tunedModels", "endpoints")
) -> tuple[str, ...]:
    return tuple(f"/{folder}/{{model}}:{method}" for folder in under for method in methods)


OPERATIONS: Final = (
    _row("/chat/completions", "chat", dialects.XAI_CHAT, XAI, _XAI + "chat", XAI_HOST),
    _row(
        ("/async/chat/completions", "/v1/async/sonar"),
        "chat",
        dialects.PERPLEXITY_ASYNC,
        PERPLEXITY,
        "https://docs.perplexity.ai/api-reference/async-sonar-post",
    ),
    _row("/chat/completions", "chat", dialects.CHAT, OPENAI, _OPENAI + "chat"),
    _row("/agents/completions", "chat", dialects.CHAT, MISTRAL, _MISTRAL + "endpoint/agents"),
    _row(
        ("/v1/conversations", "/v1/conversations/{}", "/v1/conversations/{}/restart"),
        "chat",
        dialects.CONVERSATIONS,
        MISTRAL,
        _MISTRAL + "endpoint/beta/conversations",
        # OpenAI's of this name only keep what was said.
        "mistral.ai",
    ),
    _row("/fim/completions", "completion", dialects.COMPLETIONS, MISTRAL, _MISTRAL + "fim"),
    _row("/completions", "completion", dialects.COMPLETIONS, OPENAI, _OPENAI + "completions"),
    _row(
        ("/v1/responses", "/openai/responses", "/v1/responses/compact", "/v1/decisions"),
        "chat",
        dialects.RESPONSES,
        OPENAI,
        _OPENAI + "responses",
    ),
    _row(
        ("/api/embed", "/api/embeddings"),
        "embedding",
        dialects.OLLAMA_EMBED,
        OLLAMA,
        _OLLAMA + "embed",
    ),
    _row(
        ("/images/generations", "/images/edits", "/images/variations"),
        "image",
        dialects.IMAGES,
        OPENAI,
        _OPENAI + "images",
    ),
    _row(
        ("/audio/transcriptions", "/audio/translations"),
        "transcription",
        dialects.TRANSCRIPTIONS,
        OPENAI,
        _OPENAI + "audio",
    ),
    _row("/audio/speech", "speech", dialects.SPEECH, OPENAI, _OPENAI + "audio"),
    _row(
        ("/v1/rerank", "/v2/rerank"),
        "rerank",
        dialects.COHERE_RERANK,
        COHERE,
        _COHERE + "reference/rerank",
    ),
    _row("/embeddings", "embedding", dialects.EMBEDDINGS, OPENAI, _OPENAI + "embeddings"),
    _row("/v1/messages", "chat", dialects.MESSAGES, ANTHROPIC, _ANTHROPIC + "messages"),
    _row(
        _google("rawPredict", "streamRawPredict", under=["publishers/anthropic/models"]),
        "chat",
        dialects.MESSAGES,
        VERTEX_AI,
        _ANTHROPIC + "claude-on-vertex-ai",
    ),
    _row(
        _google("rawPredict", "streamRawPredict", under=["publishers/mistralai/models"]),
        "chat",
        dialects.CHAT,
        VERTEX_AI,
        "https://docs.mistral.ai/deployment/cloud/vertex",
    ),
    _row("/v2/chat", "chat", dialects.COHERE_CHAT, COHERE, _COHERE + "reference/chat"),
    _row("/v1/chat", "chat", dialects.COHERE_V1_CHAT, COHERE, _COHERE + "v1/reference/chat"),
    _row(
        "/v1/generate",
        "completion",
        dialects.COHERE_GENERATE,
        COHERE,
        _COHERE + "v1/reference/generate",
    ),
    _row(
        ("/v1/embed", "/v2/embed"),
        "embedding",
        dialects.COHERE_EMBED,
        COHERE,
        _COHERE + "reference/embed",
    ),
    _row(
        _google("generateContent", "streamGenerateContent"),
        "chat",
        dialects.GEMINI,
        GEMINI,
        _GEMINI + "generate-content",
    ),
    _row(
        _google("embedContent", "batchEmbedContents"),
        "embedding",
        dialects.GEMINI_EMBED,
        GEMINI,
        _GEMINI + "embeddings",
    ),
    _row("/api/chat", "chat", dialects.OLLAMA_CHAT, OLLAMA, _OLLAMA + "chat"),
    _row("/api/generate", "completion", dialects.OLLAMA_GENERATE, OLLAMA, _OLLAMA + "generate"),
    _row(
        "/model/{model}/converse",
        "by model",
        dialects.CONVERSE,
        BEDROCK,
        _BEDROCK + "Converse.html",
        BEDROCK_SERVICE,
    ),
    _row(
        "/model/{model}/converse-stream",
        "by model",
        dialects.CONVERSE,
        BEDROCK,
        _BEDROCK + "ConverseStream.html",
        BEDROCK_SERVICE,
    ),
    _row(
        "/model/{model}/invoke",
        "by model",
        dialects.INVOKE,
        BEDROCK,
        _BEDROCK + "InvokeModel.html",
    ),
    _row(
        "/model/{model}/invoke-with-response-stream",
        "by model",
        dialects.INVOKE_STREAM,
        BEDROCK,
        _BEDROCK + "InvokeModelWithResponseStream.html",
    ),
)
"""The operations that come with the package; the first that a request fits is taken."""

_FREE: Final = "count-tokens"
"""What stands in the place of a model on Vertex AI where no model is asked."""

_DEPLOYMENT: Final = re.compile(r".*/deployments/(?P<model>[^/]+)/")

Find: TypeAlias = Callable[[str, str, str], Match | None]


def find(host: str, method: str, path: str) -> Match | None:
    """Find out what a request asks for.

    Args:
        host: The host's name; for a request of botocore's the name of its service.
        method: The request's method, in capitals.
        path: Its path.

    Returns:
        What is known by that, or `None` for a request that isn't counted.
    """
    return _find(host, method, path)


def _finder(operations: Iterable[WireOperation]) -> Find:
    """Compile rows, so that what was found among them is found again at once."""
    patterns = [(row, _pattern(path)) for row in operations for path in row.paths]

    @lru_cache(maxsize=256)
    def found(host: str, method: str, path: str) -> Match | None:
        for row, pattern in patterns:
            fits = pattern.fullmatch(path) if _is_sent(row, host, method) else None
            named = None if fits is None else fits if pattern.groups else _DEPLOYMENT.match(path)
            model = unquote(named["model"]) if named else ""
            if fits is not None and not model.startswith(_FREE):
                provider, sent = _provider(row, host)
                return Match(row, _kind(row, model), provider, model, sent)
        return None

    return found


def _pattern(path: str) -> re.Pattern[str]:
    """What fits the paths that end like this.

    A model's name goes up to what follows it: ids on Bedrock hold colons, and ARNs hold slashes.
    """
    before, given, after = path.partition("{model}")
    name = r"(?P<model>[^/:]+)" if after.startswith(":") else r"(?P<model>.+)"
    fits = f".*?{re.escape(before)}{name if given else ''}{re.escape(after)}"
    return re.compile(fits.replace(re.escape("{}"), "[^/]+"))


def _is_sent(row: WireOperation, host: str, method: str) -> bool:
    return host.endswith(row.host) and method == row.method


def _kind(row: WireOperation, model: str) -> Operation:
    if row.kind == "by model":
        # What its answer says later stands; of an opaque ARN nothing else tells.
        if EMBEDS in model:
            return "embedding"
        return "rerank" if RERANKS in model else "image" if DRAWS.search(model) else "chat"
    return row.kind


def _provider(row: WireOperation, host: str) -> tuple[str | None, Served]:
    """Who answers, and where; in formats that others speak an unknown host is nobody's."""
    named, region = at_host(host)
    if row.host or (named is None and row.provider not in SPOKEN_BY_OTHERS):
        named = row.provider
    return named, served_in_region(region)


@lru_cache(maxsize=256)
def served_in_region(region: str | None) -> Served:
    """What is known of a request that is sent to a region."""
    return UNSAID if region is None else Served(region=region)


_FREE_PATHS: Final = re.compile(
    r".*(?:"
    # Counting, checking, and stopping what was begun.
    r"[/:_-](?:count[-_]?tokens|countTokens|computeTokens|input_tokens|tokenize|detokenize|validate"
    r"|cancel|archive|pause|unpause|resume|check-api-key)(?::rawPredict)?"
    # Things that are stored, and what's done with them apart from asking a model.
    r"|/(?:agents|assistants|files|uploads|containers|skills|vector_stores|datasets|connectors"
    r"|libraries|memory_stores|vaults|tunnels|user_profiles|environments|client_secrets"
    r"|auth_tokens|files:register|service-accounts|webhooks)(?:/(?!completions).*)?"
    r"|/threads(?:/(?!runs)[^/]+)?(?:/messages.*)?|/chat/completions/[^/]+"
    r")"
)
_FREE_AT: Final = {
    OPENAI: re.compile(
        r"/v1/(?:organization|projects|conversations)(?:/.*)?"
        r"|/v1/(?:moderations|content_provenance_checks|webhook_endpoints(?:/.*)?)"
    ),
    ANTHROPIC: re.compile(r"/v1/(?:organizations|compliance)(?:/.*)?"),
    # Judges run models.
    MISTRAL: re.compile(r"/v1/observability/(?!.*judg).*|/v2/prompts(?:/.*)?"),
}
"""Paths to which a POST uses no tokens of a model: of all providers, and of one alone.

Source: the API reference of each provider, by the paths that their SDKs hold (checked 2026-11-29).
"""


def is_free(provider: str | None, path: str) -> bool:
    """Whether a POST to this path uses no tokens of a model."""
    own = _FREE_AT.get(provider or "")
    return bool(_FREE_PATHS.fullmatch(path) or (own and own.fullmatch(path)))


@lru_cache(maxsize=256)
def uncounted_provider(host: str, method: str, path: str) -> str | None:
    """Whom a request is sent to that isn't counted and may be billed; `None` for any other."""
    provider = at_host(host)[0] if method == "POST" else None
    return None if is_free(provider, path) else provider


_registered: tuple[WireOperation, ...] = ()
_find = _finder(OPERATIONS)


def register_operation(operation: WireOperation) -> None:
    """Count the requests of an operation of your own from now on.

    It comes before those of the package and before those that were registered earlier. To register
    an operation twice is to register it once.

    Args:
        operation: By which path its requests are known, and how they are read.

    Raises:
        WireFormatError: It's no `WireOperation`.
    """
    global _registered, _find
    if not isinstance(operation, WireOperation):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' own
        msg = f"a {type(operation).__name__} can't be registered; give a WireOperation."
        raise WireFormatError(msg)
    with LOADING:
        if operation not in (*_registered, *OPERATIONS):
            _registered = (operation, *_registered)
            _find = _finder((*_registered, *OPERATIONS))


def forget_operations() -> None:
    """Forget all operations that were registered, as in a new process."""
    global _registered, _find
    with LOADING:
        _registered, _find = (), _finder(OPERATIONS)
