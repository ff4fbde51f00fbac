"""Signals that are handled while a run of LangChain's ends."""

import signal
from contextlib import suppress
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from llama_token_tracker.langchain import TokenCountingCallbackHandler
from tests.interrupts import TimeLimit, handled, interrupted, raising


def ended(at: int) -> tuple[TokenCountingCallbackHandler, int]:
    """End a run, with a signal at the n-th place; and say how many there were."""
    handler, run_id = TokenCountingCallbackHandler(), uuid4()
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    message = AIMessage(content="hi", usage_metadata=usage)
    answer = LLMResult(generations=[[ChatGeneration(message=message)]])
    handler.on_chat_model_start({}, [[HumanMessage(content="hello")]], run_id=run_id)
    places = 0

    def end() -> None:
        handler.on_llm_end(answer, run_id=run_id)

    with suppress(TimeLimit):
        places = interrupted(end, at)
        assert at < 0 or places < at
    return handler, places


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal")
def test_a_time_limit_loses_no_end_and_is_not_lost():
    """An alarm that raises reaches the user, and the answer that was paid for counts once."""
    ended(-1)
    _, places = ended(-1)
    with handled(raising):
        for at in range(1, places):
            handler, _ = ended(at)
            if at > 1:  # else nothing of the end was begun
                assert (handler.total_tokens, len(handler.llm_token_counts)) == (7, 1), at
                assert handler.open_calls == 0, at
