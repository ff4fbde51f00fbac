"""The other ways of serving a request, each with its scope where such a server would open it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from llama_index.core.llms import LLM, ChatMessage
from starlette.applications import Starlette
from starlette.routing import Route

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.web import ASGIApp, Connection, ScopeMiddleware

from .app import event

Open = Callable[[Connection], AbstractContextManager[Any]]
"""Opens the scope of a request."""


def opener(token_counter: TokenCountingHandler) -> Open:
    """Give what opens a scope, with the user and the number that a request names."""

    def open_scope(connection: Connection) -> AbstractContextManager[Any]:
        query = Request(connection).query_params
        return token_counter.scope("ask", user=query["user"], request=query["number"])

    return open_scope


def last(scope: Any) -> str:
    """The event that says what the request used."""
    return event(input=scope.usage.input_tokens, output=scope.usage.output_tokens)


def stream(llm: LLM, question: str, request: Request) -> StreamingResponse:
    """Stream an answer, in whatever scope the request has been given."""

    async def answer() -> AsyncIterator[str]:
        async for chunk in await llm.astream_chat([ChatMessage(question)]):
            yield event(text=chunk.delta)
        yield last(request.state.counts)

    return StreamingResponse(answer())


def stream_in_threads(llm: LLM, question: str, request: Request) -> StreamingResponse:
    """The same by a plain generator, whose steps are run in threads."""

    def answer() -> Iterator[str]:
        for chunk in llm.stream_chat([ChatMessage(question)]):
            yield event(text=chunk.delta)
        yield last(request.state.counts)

    return StreamingResponse(answer())


def in_threads(llm: LLM, token_counter: TokenCountingHandler) -> FastAPI:
    """A plain endpoint with a plain generator, which opens its scope itself."""
    app = FastAPI()
    open_scope = opener(token_counter)

    @app.get("/ask")
    def ask(question: str, request: Request) -> StreamingResponse:
        def answer() -> Iterator[str]:
            with open_scope(request.scope) as scope:
                for chunk in llm.stream_chat([ChatMessage(question)]):
                    yield event(text=chunk.delta)
            yield last(scope)

        return StreamingResponse(answer())

    return app


def _endpoints(app: FastAPI, llm: LLM) -> FastAPI:
    """Add endpoints that know of no scope and no budget."""

    @app.get("/ask")
    async def ask(question: str, request: Request) -> StreamingResponse:
        return stream(llm, question, request)

    @app.get("/whole")
    async def whole(question: str) -> str:
        return (await llm.achat([ChatMessage(question)])).message.content or ""

    return app


def in_middleware(llm: LLM, token_counter: TokenCountingHandler) -> FastAPI:
    """Endpoints that know of no scope."""
    app = FastAPI()
    app.add_middleware(ScopeMiddleware, open_scope=opener(token_counter))
    return _endpoints(app, llm)


def in_starlette(llm: LLM, token_counter: TokenCountingHandler) -> ASGIApp:
    """An endpoint without FastAPI, below the middleware as it is."""

    async def ask(request: Request) -> StreamingResponse:
        return stream(llm, request.query_params["question"], request)

    return ScopeMiddleware(Starlette(routes=[Route("/ask", ask)]), opener(token_counter))


def refused_below_another(llm: LLM, token_counter: TokenCountingHandler) -> FastAPI:
    """Another middleware between it and the endpoints, which ends streams that have failed."""
    app = FastAPI()

    @app.middleware("http")
    async def hands_on(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        return await call_next(request)

    app.add_middleware(ScopeMiddleware, open_scope=opener(token_counter))
    return _endpoints(app, llm)


def in_middleware_and_threads(llm: LLM, token_counter: TokenCountingHandler) -> FastAPI:
    """Plain endpoints that know of no scope."""
    app = FastAPI()
    app.add_middleware(ScopeMiddleware, open_scope=opener(token_counter))

    @app.get("/ask")
    def ask(question: str, request: Request) -> StreamingResponse:
        return stream_in_threads(llm, question, request)

    return app


def in_decorated_middleware(llm: LLM, token_counter: TokenCountingHandler) -> FastAPI:
    """Middleware by decorator, which returns before the answer has been streamed."""
    app = FastAPI()
    open_scope = opener(token_counter)

    @app.middleware("http")
    async def scoped(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        with open_scope(request.scope) as request.state.counts:
            return await call_next(request)

    @app.get("/ask")
    async def ask(question: str, request: Request) -> StreamingResponse:
        return stream(llm, question, request)

    return app


def by_dependency(llm: LLM, token_counter: TokenCountingHandler) -> FastAPI:
    """An endpoint that depends on a scope."""
    app = FastAPI()
    open_scope = opener(token_counter)

    async def counts(request: Request) -> AsyncIterator[Any]:
        with open_scope(request.scope) as request.state.counts:
            yield request.state.counts

    @app.get("/ask", dependencies=[Depends(counts)])
    async def ask(question: str, request: Request) -> StreamingResponse:
        return stream(llm, question, request)

    return app


def by_dependency_in_threads(llm: LLM, token_counter: TokenCountingHandler) -> FastAPI:
    """A plain endpoint that depends on a scope."""
    app = FastAPI()
    open_scope = opener(token_counter)

    async def counts(request: Request) -> AsyncIterator[Any]:
        with open_scope(request.scope) as request.state.counts:
            yield request.state.counts

    @app.get("/ask")
    def ask(
        question: str, request: Request, counts: Annotated[Any, Depends(counts)]
    ) -> StreamingResponse:
        return stream_in_threads(llm, question, request)

    return app


def with_background(llm: LLM, token_counter: TokenCountingHandler) -> FastAPI:
    """An endpoint that answers at once, and leaves two calls for later."""
    app = FastAPI()
    app.add_middleware(ScopeMiddleware, open_scope=opener(token_counter))

    @app.get("/ask")
    async def ask(question: str, tasks: BackgroundTasks) -> dict[str, bool]:
        tasks.add_task(llm.achat, [ChatMessage(question)])
        # Not asynchronous, so it's run in a thread.
        tasks.add_task(llm.chat, [ChatMessage(question)])
        return {"begun": True}

    return app
