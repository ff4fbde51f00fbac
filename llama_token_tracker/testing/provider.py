"""A provider on this machine that speaks the real formats and knows what it billed."""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Final, Self, cast
from uuid import uuid4

from llama_token_tracker.errors import LoopbackError
from llama_token_tracker.testing import clients
from llama_token_tracker.testing.formats import ROUTES
from llama_token_tracker.testing.formats.base import Answer, Figures, Request, Route, plain
from llama_token_tracker.testing.replies import (
    FIRST_ERROR,
    Call,
    Reply,
    drawn_usages,
)
from llama_token_tracker.testing.server import Exchange, Server
from llama_token_tracker.usage import Usage

_NOT_FOUND: Final = 404


class LoopbackProvider:
    """Answers on 127.0.0.1 as scripted, else with a default, and keeps a list of every call.

    Use it as a context manager; it listens while you're inside. It runs in threads of its own,
    so that synchronous and asynchronous clients, of any loop, and other processes can speak to
    it alike. All methods may be called from any thread.

    Example::

        with LoopbackProvider() as provider:
            provider.script(Reply("Paris", Usage(input_tokens=22_734, output_tokens=56)))
            client = Anthropic(**provider.arguments("anthropic"))
            ...
            assert provider.billed == [Usage(input_tokens=22_734, output_tokens=56)]
    """

    def __init__(self, default: Reply | None = None) -> None:
        """Prepare a provider; nothing listens before the context is entered.

        Args:
            default: What to answer when nothing that is scripted fits.

        Raises:
            LoopbackError: The default is no `Reply`.
        """
        self._default = Reply() if default is None else _checked(default)
        self._script: list[_Rule] = []
        self._calls: dict[int, Call] = {}
        self._numbers = count()
        self._drawn = drawn_usages()
        self._changed = threading.Condition()
        self._server: Server | None = None

    def __enter__(self) -> Self:
        """Listen on a free port of 127.0.0.1.

        Raises:
            LoopbackError: It's listening already.
        """
        if self._server is not None:
            msg = "this loopback provider is listening already; make another one."
            raise LoopbackError(msg)
        self._server = Server(self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up on whoever is connected, and stop listening. The calls stay readable."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def url(self, provider: clients.Provider | None = None) -> str:
        """Give the URL that a provider's own client takes for its base.

        Args:
            provider: Whose format is to be spoken; without it, the URL that all others begin with.

        Raises:
            LoopbackError: Nobody here speaks as that provider, or nothing listens.
        """
        return self._root if provider is None else clients.base_url(self._root, provider)

    def arguments(self, provider: clients.Provider) -> dict[str, Any]:
        """Give what a provider's own client is to be made with, an invalid key among it.

        They suit `anthropic.Anthropic`, `boto3.client("bedrock-runtime", …)`, `cohere.Client`,
        `genai.Client`, `Mistral`, `ollama.Client` and `openai.OpenAI`, and their asynchronous
        sisters. Where a client tries again by default and an argument says how often, it says
        never, so that one call is one request.

        Args:
            provider: Whose client it is.

        Raises:
            LoopbackError: Nobody here speaks as that provider, or nothing listens.
        """
        return clients.arguments(self._root, provider)

    def environment(self) -> dict[str, str]:
        """Give the environment variables that lead clients here which are made without arguments.

        Raises:
            LoopbackError: Nothing listens.
        """
        return clients.environment(self._root)

    def script(
        self,
        *replies: Reply,
        model: str = "",
        path: str = "",
        prompt: str = "",
        repeat: bool = False,
    ) -> None:
        """Queue answers for the calls to come. Each answers one call, the first that fits.

        Args:
            *replies: What to answer, in order.
            model: What the name of the model must hold.
            path: What the path must hold, such as `/converse` or `/embeddings`.
            prompt: What one of the texts in the request must hold.
            repeat: Whether a reply answers every call that fits, not one.

        Raises:
            LoopbackError: One of them is no `Reply`.
        """
        rules = [_Rule(_checked(reply), model, path, prompt, repeat) for reply in replies]
        with self._changed:
            self._script += rules

    @property
    def calls(self) -> list[Call]:
        """Every call so far, in order of arrival, as it stands now."""
        with self._changed:
            return list(self._calls.values())

    @property
    def billed(self) -> list[Usage]:
        """What the calls cost that cost anything, in order of arrival."""
        return [call.billed for call in self.calls if call.billed is not None]

    def reset(self) -> None:
        """Forget the script and all calls; an answer still on its way is no longer noted."""
        with self._changed:
            self._script.clear()
            self._calls.clear()

    def settle(self, timeout_s: float = 5.0) -> list[Call]:
        """Wait until no answer is on its way any more, and give the calls.

        A client may be done with a stream a moment before the server is.

        Args:
            timeout_s: How many seconds to wait.

        Raises:
            TimeoutError: One still was on its way then.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._open(), timeout_s):
                msg = f"answers are still on their way after {timeout_s} s: {self._open()}"
                raise TimeoutError(msg)
            return list(self._calls.values())

    # --- Called in the server's threads ------------------------------------------------------

    def _handle(self, path: str, raw: bytes) -> Exchange:
        body = _decoded(raw)
        route, model = _route(path)
        with self._changed:
            number = next(self._numbers)
            # Various enough to be this answer's alone, as real ones are.
            name = f"loopback{uuid4().int}"
            request = Request(name, model or str(body.get("model", "")), body)
            if route is None:
                reply, answer, billed = Reply(), _unknown(path), None
            else:
                reply = self._reply_to(path, request)
                answer, billed = self._answer(route, request, reply)
            self._calls[number] = Call(
                number=number,
                api=route.api if route else "",
                path=path,
                model=request.model,
                body=body,
                status=answer.status,
                streamed=answer.streamed,
                billed=billed,
            )
        return Exchange(answer, reply, partial(self._note, number))

    def _reply_to(self, path: str, request: Request) -> Reply:
        for place, rule in enumerate(self._script):
            if rule.fits(path, request):
                if not rule.repeat:
                    del self._script[place]
                return rule.reply
        return self._default

    def _answer(self, route: Route, request: Request, reply: Reply) -> tuple[Answer, Usage | None]:
        if reply.status >= FIRST_ERROR:
            answer, billed = route.refuse(reply.status, f"the script says {reply.status}."), None
        else:
            usage = reply.usage if isinstance(reply.usage, Usage) else next(self._drawn)
            figures = None if reply.usage is None else Figures(usage).only(route.buckets)
            answer = route.respond(request, reply, figures)
            billed = route.bill(usage) if answer.status < FIRST_ERROR else None
        if route.id_header:
            answer = replace(answer, headers={**answer.headers, route.id_header: request.id})
        return answer, billed

    def _note(self, number: int, **changes: Any) -> None:
        with self._changed:
            call = self._calls.get(number)
            if call is not None:
                self._calls[number] = replace(call, **changes)
                self._changed.notify_all()

    def _open(self) -> list[Call]:
        return [call for call in self._calls.values() if call.ended == "open"]

    @property
    def _root(self) -> str:
        if self._server is None:
            msg = "the loopback provider isn't listening; enter it with `with` first."
            raise LoopbackError(msg)
        return self._server.root


@dataclass(frozen=True, slots=True)
class _Rule:
    """A reply, and the calls that it's for."""

    reply: Reply
    model: str
    path: str
    prompt: str
    repeat: bool

    def fits(self, path: str, request: Request) -> bool:
        """Whether it's for this one."""
        return (
            self.model in request.model
            and self.path in path
            and (not self.prompt or any(self.prompt in text for text in _texts(request.body)))
        )


def _checked(reply: object) -> Reply:
    if isinstance(reply, Reply):
        return reply
    msg = f"{reply!r} is no Reply; script Reply(text, usage), of which each part has a default."
    raise LoopbackError(msg)


def _texts(value: object) -> Iterator[str]:
    """All texts within a request's JSON, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in cast("Mapping[str, object]", value).values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _texts(inner)


def _route(path: str) -> tuple[Route | None, str]:
    for route in ROUTES:
        found = route.pattern.fullmatch(path)
        if found is not None:
            return route, found.groupdict().get("model", "")
    return None, ""


def _unknown(path: str) -> Answer:
    known = ", ".join(sorted(route.api for route in ROUTES))
    message = f"the loopback provider knows no {path}; it answers {known}."
    error = {"type": "not_found_error", "message": message}
    return plain({"error": error}, status=_NOT_FOUND)


def _decoded(raw: bytes) -> Mapping[str, object]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return cast("Mapping[str, object]", body) if isinstance(body, dict) else {"body": body}
