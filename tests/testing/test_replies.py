"""What can be scripted, and what can't."""

from itertools import islice
from typing import Any

import pytest

from llama_token_tracker import LlamaTokenTrackerError, Usage
from llama_token_tracker.testing import LoopbackError, Reply, ToolCall
from llama_token_tracker.testing.replies import drawn_usages


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"usage": {"input_tokens": 1}}, "give a Usage, None for a silent provider, or 'drawn'"),
        ({"usage": Usage(output_tokens=1)}, "has no input_tokens"),
        ({"status": 302}, "200 or from 400 to 599"),
        ({"status": 600}, "200 or from 400 to 599"),
        ({"chunks": 0}, "chunks is 0; it can't be less than 1"),
        ({"cut_after": -1}, "cut_after is -1"),
        ({"stall_after": -1}, "stall_after is -1"),
        ({"delay_s": -0.1}, "delay_s is -0.1"),
        ({"pause_s": -0.1}, "pause_s is -0.1"),
        ({"text": "\ud800"}, "text or thinking can't be sent as JSON"),
        ({"thinking": "\ud800"}, "text or thinking can't be sent as JSON"),
    ],
)
def test_an_impossible_reply_is_refused(odd: dict[str, Any], message: str):
    """The error says what was found, and it comes where the reply is made."""
    with pytest.raises(LoopbackError, match=message) as caught:
        Reply(**odd)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LlamaTokenTrackerError)


@pytest.mark.parametrize("odd", [object(), float("nan"), "\ud800", {1, 2}])
def test_arguments_that_are_no_json_are_refused(odd: object):
    """A tool is called with what JSON can hold."""
    with pytest.raises(LoopbackError, match="a call of 'add' can't be sent as JSON"):
        ToolCall("add", {"a": odd})


def test_drawn_figures_are_never_shared():
    """They're primes, so that no two calls share one, and no tokenizer gives them by chance."""
    drawn = list(islice(drawn_usages(), 200))
    figures = {usage.input_tokens for usage in drawn} | {usage.output_tokens for usage in drawn}
    assert len(figures) == 400
    assert all(n % d for n in figures if n for d in range(2, 142))
