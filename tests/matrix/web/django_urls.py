"""The Django site's views and its middleware."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from llama_index.core.llms import ChatMessage

from llama_token_tracker import BudgetExceededError
from llama_token_tracker.web import too_many_requests

from .app import event
from .wsgi import answer, django_llm


class Refusals:
    """Answers a view's refused call with 429."""

    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        """Take what answers the request."""
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        """Answer a request."""
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer in the place of a view that has raised."""
        if not isinstance(error, BudgetExceededError):
            return None
        text, status, headers = too_many_requests(error)
        return HttpResponse(text, status=status, headers=headers)


def ask(request: HttpRequest) -> StreamingHttpResponse:
    """Stream an answer, from threads on WSGI and from the loop on ASGI."""
    question = request.GET["question"]
    if "llama_token_tracker.counts" in request.META:
        counts = request.META["llama_token_tracker.counts"]
        return StreamingHttpResponse(answer(django_llm(), question, counts))
    return StreamingHttpResponse(_answer(question, request.scope["state"]["counts"]))


async def _answer(question: str, counts: Any) -> AsyncIterator[str]:
    async for chunk in await django_llm().astream_chat([ChatMessage(question)]):
        yield event(text=chunk.delta)
    yield event(input=counts.usage.input_tokens, output=counts.usage.output_tokens)


def whole(request: HttpRequest) -> HttpResponse:
    """Answer at once."""
    return HttpResponse(django_llm().chat([ChatMessage(request.GET["question"])]).message.content)


urlpatterns = [path("ask", ask), path("whole", whole)]
