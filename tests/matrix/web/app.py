"""A FastAPI server that says with each answer what it used, and who used how much in all."""

import json
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from llama_index.core.llms import LLM, ChatMessage

from llama_token_tracker import TokenCountingHandler


def event(**fields: object) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(fields)}\n\n"


def build(llm: LLM, token_counter: TokenCountingHandler) -> FastAPI:
    """Make the app; the model's callback manager holds the handler."""
    app = FastAPI()

    @app.get("/ask")
    async def ask(question: str, user: str, number: str) -> StreamingResponse:
        async def answer() -> AsyncIterator[str]:
            with token_counter.scope("ask", user=user, request=number) as request:
                async for chunk in await llm.astream_chat([ChatMessage(question)]):
                    yield event(text=chunk.delta)
            usage = request.usage
            yield event(input=usage.input_tokens, output=usage.output_tokens)

        return StreamingResponse(answer(), media_type="text/event-stream")

    @app.get("/users")
    def users() -> dict[str, dict[str, object]]:
        return {
            str(user): {"calls": row.calls, "tokens": row.total_tokens, "usd": row.cost_usd}
            for user, row in token_counter.by("user").items()
        }

    return app
