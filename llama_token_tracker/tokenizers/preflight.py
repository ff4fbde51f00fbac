"""Input tokens of a prompt before it is sent: by the provider's own counting API, or counted here.

The provider's figure is exact, so it is asked for where a client is given. If it fails, the local
count stands in, because a count is no reason for a program to stop.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from llama_token_tracker._names import CLAUDE_ON_BEDROCK, bare_bedrock_id
from llama_token_tracker._printable import printable
from llama_token_tracker.errors import CountRefusedError
from llama_token_tracker.extraction.messages import messages_of, tools_of
from llama_token_tracker.extraction.parts import Message, Part, Text, Tool, ToolCall, ToolResult
from llama_token_tracker.tokenizers import MessageCount
from llama_token_tracker.tokenizers import count_messages as count_locally
from llama_token_tracker.tokenizers.request_fields import tools_in, uncovered

_SYSTEM: Final = frozenset({"system", "developer"})

Json: TypeAlias = dict[str, Any]


def count_messages(
    messages: object,
    *,
    model: str,
    tools: object = (),
    via: object = None,
    strict: bool = False,
    timeout_s: float = 10.0,
    **fields: Any,
) -> MessageCount:
    """Count the input tokens of a prompt before it is sent.

    Args:
        messages: LlamaIndex's messages, LangChain's, dicts with `role` and `content`, or any
            `Message`; a single one of these, or a text, which is taken as the user's message.
        model: The model, by any of its names; with `via`, the name that the provider knows.
        tools: The tools to send along, as OpenAI, Anthropic or Bedrock spell them, or
            LlamaIndex's.
        via: The client to ask the provider with: an `anthropic.Anthropic`, or boto3's
            `bedrock-runtime`. By default nothing is sent, and the count is made here.
        strict: Whether to raise if the provider gives no count; by default the local count
            stands in, and its `estimates` say why.
        timeout_s: How long an Anthropic client may take, in seconds, without retries. boto3's
            clients keep the limits of their own configuration.
        fields: What else the request will hold, in its provider's words: `response_format`,
            `thinking`, `functions`, `tool_choice` and the like. What no rule covers is marked.

    Returns:
        The count: `reported` by the provider, or else `counted` or `estimated`.

    Raises:
        CountRefusedError: With `strict`, the provider gave no count.
        TypeError: Something in it is no message.
    """
    prompt = _prompt(messages)
    tools = tools or tools_in(fields)

    def count_here() -> MessageCount:
        described = tools_of(tools)
        return count_locally(messages_of(prompt), model=model, tools=described, options=fields)

    if via is not None:
        try:
            tokens, left = _counting_api(via)(via, prompt, model, tools, fields, timeout_s)
        except Exception as error:
            if strict:
                msg = f"no count of {model} by the provider: {_reason(error)}"
                raise CountRefusedError(msg) from error
            local = count_here()
            why = f"all of it, as the provider gave no count: {_reason(error)}"
            return MessageCount(local.tokens, "estimated", (why, *local.estimates))
        unasked = tuple(f"the request's {name}, which wasn't counted" for name in left)
        return MessageCount(tokens, "estimated" if unasked else "reported", unasked)
    return count_here()


def _prompt(given: Any) -> list[object]:
    is_one = (
        issubclass(type(given), Mapping) or _is_message(given) or not hasattr(given, "__iter__")
    )
    prompt: list[object] = [given] if is_one else list(given)
    for number, message in enumerate(prompt):
        if not _is_message(message):
            msg = (
                f"message {number} is {printable(message)}; give messages of LlamaIndex or "
                "LangChain, dicts with `role` and `content`, or a text."
            )
            raise TypeError(msg)
    return prompt


def _is_message(thing: Any) -> bool:
    if isinstance(thing, Mapping):
        return "role" in thing and ("content" in thing or "tool_calls" in thing)
    marks = ("blocks", "response_metadata")
    return isinstance(thing, str | Message) or any(hasattr(thing, mark) for mark in marks)


_CountingApi: TypeAlias = Callable[
    [Any, list[object], str, object, Json, float], tuple[int, list[str]]
]
"""Gives the count, and the names of fields that couldn't be part of it."""


def _counting_api(via: Any) -> _CountingApi:
    """Choose the provider's API by what the client can do."""
    if callable(getattr(getattr(via, "messages", None), "count_tokens", None)):
        return _count_by_anthropic
    if callable(getattr(via, "count_tokens", None)) and hasattr(via, "meta"):
        return _count_by_bedrock
    msg = (
        f"via= is a {type(via).__name__}, which can't count; give an anthropic.Anthropic or a "
        "recent boto3 bedrock-runtime client."
    )
    raise CountRefusedError(msg)


def _reason(error: Exception) -> str:
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line[:200]}"


def _number(tokens: object) -> int:
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        msg = f"the provider's count is {tokens!r:.60}, which is no number of tokens."
        raise CountRefusedError(msg)
    return tokens


# --- Anthropic -----------------------------------------------------------------------------


_ANTHROPIC_COUNTS: Final = ("thinking", "tool_choice", "output_config", "mcp_servers")


def _count_by_anthropic(
    client: Any, prompt: list[object], model: str, tools: object, fields: Json, timeout_s: float
) -> tuple[int, list[str]]:
    """Count by `messages.count_tokens`.

    Source:
        Anthropic API reference, "Count tokens in a Message" (checked 2026-11-22).
    """
    request = _anthropic_request(prompt, tools)
    request |= {name: fields[name] for name in _ANTHROPIC_COUNTS if name in fields}
    answer = client.with_options(max_retries=0, timeout=timeout_s).messages.count_tokens(
        model=model, **request
    )
    if hasattr(answer, "__await__"):
        answer.close()
        msg = "via= is an asynchronous client; give the synchronous one."
        raise CountRefusedError(msg)
    left = [name for name, _ in uncovered(fields) if name not in request]
    return _number(answer.input_tokens), left


def _anthropic_request(prompt: list[object], tools: object) -> Json:
    if all(isinstance(message, Mapping) for message in prompt):
        dicts = cast("list[Json]", prompt)
        turns = [m for m in dicts if m.get("role") not in _SYSTEM]
        if not any(_is_other_form(message) for message in turns):
            return _anthropic_body(turns, _system(dicts), tools)
    neutral = messages_of(prompt)
    ids = _ToolCallIds()
    turns = [
        {
            "role": "assistant" if message.role == "assistant" else "user",
            "content": [_anthropic_part(part, ids) for part in message.parts],
        }
        for message in neutral
        if message.role not in _SYSTEM
    ]
    return _anthropic_body(turns, "\n\n".join(_system_texts(neutral)), tools)


def _is_other_form(message: Json) -> bool:
    """Whether a dict is no message of Anthropic's, but of OpenAI's or Bedrock's."""
    if message.get("role") not in {"user", "assistant"} or "tool_calls" in message:
        return True
    content = message.get("content")
    return not isinstance(content, str) and any(
        not isinstance(block, Mapping)
        or cast("Json", block).get("type") in {None, "image_url", "input_audio"}
        for block in cast("Iterable[object]", content or ())
    )


def _anthropic_body(turns: list[Json], system: str, tools: object) -> Json:
    body: Json = {"messages": turns}
    if system:
        body["system"] = system
    if described := tools_of(tools):
        body["tools"] = [
            {
                "name": tool.name,
                "description": tool.description,
                "input_schema": _schema(tool),
            }
            for tool in described
        ]
    return body


def _anthropic_part(part: Part, ids: "_ToolCallIds") -> Json:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case ToolCall(name, arguments):
            return {"type": "tool_use", "id": ids.call(), "name": name, "input": _args(arguments)}
        case ToolResult(parts):
            content = [_anthropic_part(inner, ids) for inner in parts]
            return {"type": "tool_result", "tool_use_id": ids.result(), "content": content}
        case _:
            raise CountRefusedError(_unsendable(part))


# --- Bedrock -------------------------------------------------------------------------------


def _count_by_bedrock(
    client: Any, prompt: list[object], model: str, tools: object, fields: Json, timeout_s: float
) -> tuple[int, list[str]]:
    """Count by `CountTokens`: in the form of Converse, and if that is refused of InvokeModel.

    Sources differ on whether a model id may have a geographic prefix, so each form is tried with
    the id as given and then without.

    Source:
        Amazon Bedrock API reference, CountTokens (checked 2026-11-22).
    """
    del timeout_s  # boto3's clients have their own
    refused: Exception | None = None
    for model_id, form in _bedrock_attempts(prompt, model, tools):
        try:
            answer = client.count_tokens(modelId=model_id, input=form)
        except Exception as error:
            # A boto3 that is older than a field refuses by itself.
            old = type(error).__name__ == "ParamValidationError"
            if not old and not isinstance(error, client.exceptions.ValidationException):
                raise
            refused = refused or error
            continue
        left = [name for name, _ in uncovered(fields)]
        return _number(answer["inputTokens"]), left
    if refused is None:
        msg = f"CountTokens has no form for {model}."
        raise CountRefusedError(msg)
    raise refused


def _bedrock_attempts(
    prompt: list[object], model: str, tools: object
) -> Iterator[tuple[str, Json]]:
    bare = bare_bedrock_id(model)
    ids = list(dict.fromkeys([model, bare]))
    converse = {"converse": _converse_request(prompt, tools)}
    for model_id in ids:
        yield model_id, converse
    if not bare.startswith(CLAUDE_ON_BEDROCK):
        return  # every other vendor's body is its own
    body = _anthropic_request(list(messages_of(prompt)), tools)
    body |= {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 1}
    for model_id in ids:
        yield model_id, {"invokeModel": {"body": json.dumps(body).encode()}}


def _converse_request(prompt: list[object], tools: object) -> Json:
    neutral = messages_of(prompt)
    ids = _ToolCallIds()
    request: Json = {
        "messages": [
            {
                "role": "assistant" if message.role == "assistant" else "user",
                "content": [_converse_part(part, ids) for part in message.parts],
            }
            for message in neutral
            if message.role not in _SYSTEM
        ]
    }
    if system := _system_texts(neutral):
        request["system"] = [{"text": text} for text in system]
    if described := tools_of(tools):
        request["toolConfig"] = {"tools": [_tool_spec(tool) for tool in described]}
    return request


def _tool_spec(tool: Tool) -> Json:
    spec: Json = {"name": tool.name, "inputSchema": {"json": _schema(tool)}}
    if tool.description:
        spec["description"] = tool.description
    return {"toolSpec": spec}


def _converse_part(part: Part, ids: "_ToolCallIds") -> Json:
    match part:
        case Text(text):
            return {"text": text}
        case ToolCall(name, arguments):
            use = {"toolUseId": ids.call(), "name": name, "input": _args(arguments)}
            return {"toolUse": use}
        case ToolResult(parts):
            content = [_converse_part(inner, ids) for inner in parts]
            return {"toolResult": {"toolUseId": ids.result(), "content": content}}
        case _:
            raise CountRefusedError(_unsendable(part))


# --- what they share -----------------------------------------------------------------------


class _ToolCallIds:
    """Ids that join tool calls with their results, in the order in which they come."""

    def __init__(self) -> None:
        self._calls = 0
        self._results = 0

    def call(self) -> str:
        self._calls += 1
        return f"toolu_{self._calls}"

    def result(self) -> str:
        self._results += 1
        return f"toolu_{self._results}"


def _system(dicts: Sequence[Json]) -> str:
    return "\n\n".join(_system_texts(messages_of(list(dicts))))


def _system_texts(messages: Sequence[Message]) -> list[str]:
    return [
        part.text
        for message in messages
        if message.role in _SYSTEM
        for part in message.parts
        if isinstance(part, Text)
    ]


def _schema(tool: Tool) -> Json:
    return {"type": "object", **tool.parameters}


def _args(arguments: str) -> Json:
    try:
        value: object = json.loads(arguments or "{}")
    except ValueError:
        value = {"arguments": arguments}
    return cast("Json", value) if isinstance(value, dict) else {"arguments": value}


def _unsendable(part: Part) -> str:
    kind = type(part).__name__.lower()
    return f"the prompt holds content ({kind}) that is known here by its size alone."
