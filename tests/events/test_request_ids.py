"""What a provider calls a request, of answers that say so, where nobody watches the client."""

from functools import partial
from typing import Any

import boto3
from botocore.config import Config
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.llms.bedrock_converse import BedrockConverse
from llama_index.llms.openai import OpenAI

from llama_token_tracker import TokenCountingHandler, Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.needs import needs

MESSAGES = [ChatMessage(role="user", content="What did the author do?")]
USAGE = Usage(input_tokens=7_013, output_tokens=419)
CLAUDE = "anthropic.claude-3-7-sonnet-20250219-v1:0"
AWS: dict[str, Any] = {
    "region_name": "us-east-1",
    "aws_access_key_id": "none",
    "aws_secret_access_key": "none",
}


def _client(provider: LoopbackProvider) -> Any:
    config = Config(retries={"total_max_attempts": 1})
    return boto3.client(
        "bedrock-runtime", endpoint_url=provider.url("bedrock"), config=config, **AWS
    )


def test_the_openai_sdks_answers_have_it() -> None:
    """As the SDK itself shows it; a stream's chunks have none."""
    handler = TokenCountingHandler()
    with LoopbackProvider(Reply(usage=USAGE)) as provider:
        model = OpenAI(
            model="gpt-4o-mini",
            api_key="none",
            api_base=provider.url("openai"),
            max_retries=0,
            callback_manager=CallbackManager([handler]),
        )
        answers = [model.chat(MESSAGES), model.complete("What did the author do?")]
        list(model.stream_chat(MESSAGES))
    said = [answer.raw._request_id for answer in answers]
    assert len({*said} - {None, ""}) == 2
    assert [event.request_id for event in handler.llm_token_counts] == [*said, None]


def test_boto3s_answers_have_it() -> None:
    """Of Converse through LlamaIndex, read at once and read later."""
    quiet, loud = TokenCountingHandler(), TokenCountingHandler(verbose=True)
    with LoopbackProvider(Reply(usage=USAGE)) as provider:
        model = partial(BedrockConverse, model=CLAUDE, client=_client(provider), **AWS)
        for handler in (quiet, loud):
            answer: Any = model(callback_manager=CallbackManager([handler])).chat(MESSAGES)
            (event,) = handler.llm_token_counts
            said = answer.raw["ResponseMetadata"]["RequestId"]
            assert event.request_id == said != ""
            assert event.usage == USAGE


@needs("langchain_aws")
def test_langchains_messages_have_it_of_converse() -> None:
    """In what it calls the response's metadata."""
    from langchain_aws import ChatBedrockConverse

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    handler = TokenCountingCallbackHandler()
    with LoopbackProvider(Reply(usage=USAGE)) as provider:
        made: Any = ChatBedrockConverse(model=CLAUDE, client=_client(provider))  # type: ignore[call-arg]
        message = made.invoke("What did the author do?", config={"callbacks": [handler]})
    (event,) = handler.tracker.llm_token_counts
    assert event.request_id == message.response_metadata["ResponseMetadata"]["RequestId"] != ""
