"""Servers on WSGI, and Django on ASGI: each with the middleware around it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from llama_index.core.llms import LLM, ChatMessage

from llama_token_tracker import BudgetExceededError, TokenCountingHandler
from llama_token_tracker.web import (
    ASGIApp,
    Connection,
    ScopeMiddleware,
    WSGIScopeMiddleware,
    too_many_requests,
)

from .app import event


def query(text: str) -> dict[str, str]:
    """A query's parameters, each once."""
    return {name: value for name, [value] in parse_qs(text).items()}


def opener(
    token_counter: TokenCountingHandler,
) -> Callable[[WSGIEnvironment], AbstractContextManager[Any]]:
    """Give what opens a scope, with the user and the number that a request names."""

    def open_scope(environ: WSGIEnvironment) -> AbstractContextManager[Any]:
        asked = query(environ["QUERY_STRING"])
        return token_counter.scope("ask", user=asked["user"], request=asked["number"])

    return open_scope


def answer(llm: LLM, question: str, counts: Any) -> Iterator[str]:
    """Stream an answer, and end it with what the request used."""
    for chunk in llm.stream_chat([ChatMessage(question)]):
        yield event(text=chunk.delta)
    yield event(input=counts.usage.input_tokens, output=counts.usage.output_tokens)


def bare(llm: LLM, token_counter: TokenCountingHandler) -> WSGIApplication:
    """An app without a framework."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        asked = query(environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        if environ["PATH_INFO"] == "/whole":
            return iter([llm.chat([ChatMessage(asked["question"])]).message.content.encode()])
        return map(
            str.encode, answer(llm, asked["question"], environ["llama_token_tracker.counts"])
        )

    return WSGIScopeMiddleware(app, opener(token_counter))


def flask(llm: LLM, token_counter: TokenCountingHandler) -> WSGIApplication:
    """A Flask app."""
    from flask import Flask, Response, request

    app = Flask(__name__)
    app.register_error_handler(BudgetExceededError, too_many_requests)

    @app.get("/ask")
    def ask() -> Response:
        counts = request.environ["llama_token_tracker.counts"]
        return Response(answer(llm, request.args["question"], counts))

    @app.get("/whole")
    def whole() -> str:
        return llm.chat([ChatMessage(request.args["question"])]).message.content or ""

    return WSGIScopeMiddleware(app, opener(token_counter))


_django: dict[str, Any] = {}
"""The model of the Django site, which a process has one of."""


def _serve(llm: LLM) -> None:
    """Set Django up, and have its views ask this model."""
    import django
    from django.conf import settings

    from . import django_urls

    _django["llm"] = llm
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF=django_urls.__name__,
            MIDDLEWARE=[f"{django_urls.__name__}.Refusals"],
        )
        django.setup()


def django(llm: LLM, token_counter: TokenCountingHandler) -> WSGIApplication:
    """A Django site."""
    from django.core.handlers.wsgi import WSGIHandler

    _serve(llm)
    return WSGIScopeMiddleware(WSGIHandler(), opener(token_counter))


def django_asgi(llm: LLM, token_counter: TokenCountingHandler) -> ASGIApp:
    """The same site, on ASGI."""
    from django.core.handlers.asgi import ASGIHandler

    _serve(llm)

    def open_scope(connection: Connection) -> AbstractContextManager[Any]:
        asked = query(connection["query_string"].decode())
        return token_counter.scope("ask", user=asked["user"], request=asked["number"])

    return ScopeMiddleware(ASGIHandler(), open_scope)


def django_llm() -> LLM:
    """What the site's views ask."""
    return _django["llm"]
