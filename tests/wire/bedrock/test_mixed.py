"""LlamaIndex, LangChain and plain boto3 at once, in one tracker: the totals are the bill."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.testing import LoopbackProvider
from llama_token_tracker.wire import watch
from tests.needs import needs
from tests.wire.bedrock.conftest import BODY, CLAUDE, MESSAGES, PROMPT, TITAN
from tests.wire.bedrock.test_llama_index import CHAT, converse, embedding

THREADS = 8
ROUNDS = 21


@needs("langchain_aws")
@pytest.mark.slow
def test_two_thousand_mixed_calls_add_up_to_what_was_billed(
    provider: LoopbackProvider,
    client: Any,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    monkeypatch: Any,
):
    """Each call is counted once, whoever made it, in whichever thread, streams between others."""
    import langchain_aws as aws

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    lang = TokenCountingCallbackHandler(tracker=handler.tracker)
    llm = converse(provider, manager, monkeypatch)
    texts = embedding(TITAN, provider, manager, monkeypatch)
    chat = aws.ChatBedrockConverse(model=CLAUDE, client=client, callbacks=[lang])
    invoked = aws.ChatBedrock(model=CLAUDE, client=client, callbacks=[lang])
    completing = aws.BedrockLLM(
        model="anthropic.claude-v2:1", client=client, streaming=True, callbacks=[lang]
    )

    def between() -> None:
        for _ in chat.stream(PROMPT):
            client.converse(modelId=CLAUDE, messages=MESSAGES)

    ways = [
        lambda: client.converse(modelId=CLAUDE, messages=MESSAGES),
        lambda: client.invoke_model(modelId=CLAUDE, body=BODY)["body"].read(),
        lambda: llm.chat(CHAT),
        lambda: list(llm.stream_chat(CHAT)),
        lambda: texts.get_text_embedding(PROMPT),
        lambda: chat.invoke(PROMPT),
        lambda: invoked.invoke(PROMPT),
        lambda: list(invoked.stream(PROMPT)),
        lambda: completing.invoke(PROMPT),
        lambda: completing.batch([PROMPT, PROMPT]),
        between,
    ]
    gate = threading.Barrier(THREADS)

    def work(number: int) -> None:
        gate.wait()
        for turn in range(ROUNDS):
            for place in range(len(ways)):
                ways[(place + number + turn) % len(ways)]()

    watches = watch(handler, client), watch(handler, llm), watch(handler, texts)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    for one in watches:
        one.stop()
    billed = [call.billed for call in provider.settle() if call.billed is not None]
    events = [*handler.llm_token_counts, *handler.embedding_token_counts]
    assert len(billed) >= 2_000
    assert Counter(event.total_token_count for event in events) == Counter(
        usage.total_tokens for usage in billed
    )
    total = handler.total_llm_token_count + handler.total_embedding_token_count
    assert total == sum(usage.total_tokens for usage in billed)
    assert lang.total_tokens == handler.total_llm_token_count
    assert {event.source for event in events} == {"reported"}
