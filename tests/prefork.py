"""A web application that counts, as a server loads it before it forks its workers."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.llms.openai import OpenAI

from llama_token_tracker import TokenCountingHandler

handler = TokenCountingHandler(ledger=os.environ.get("LEDGER"))
llm = OpenAI(
    model="gpt-4o-mini",
    api_key="none",
    api_base=os.environ["PROVIDER_URL"],
    max_retries=0,
    callback_manager=CallbackManager([handler]),
    additional_kwargs={"stream_options": {"include_usage": True}},
)
MESSAGES = [ChatMessage(role="user", content="hello")]
# What the master used before it forked: each worker inherits that, and counts on from there.
list(llm.stream_chat(MESSAGES))
inherited = handler.total_llm_token_count


def app(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Ask the provider within a scope, and answer with what this worker has used by then."""
    with handler.scope("request", user=environ.get("QUERY_STRING", "")) as scope:
        list(llm.stream_chat(MESSAGES))
    told = {
        "worker": os.getpid(),
        "used": handler.total_llm_token_count - inherited,
        "by_user": sum(row.usage.total_tokens or 0 for row in handler.by("user").values()),
        "inherited": inherited,
        "own": scope.total_llm_token_count,
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
