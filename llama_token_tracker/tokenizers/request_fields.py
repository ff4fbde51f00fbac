"""Which fields of a request the rules for its tokens cover: the one table of them.

`counted` is opt-in. A field that stands in none of these sets, and holds anything, makes a count an
estimate: what it adds to the prompt isn't published.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

_OF_THE_ANSWER: Final = """
    best_of frequency_penalty frequencyPenalty logit_bias logprobs max_completion_tokens
    max_gen_len max_new_tokens max_output_tokens max_tokens max_tokens_to_sample maxOutputTokens
    maxTokenCount maxTokens min_p n num_output num_predict p presence_penalty presencePenalty
    random_seed repetition_penalty seed stop stop_sequences stopSequences stream stream_options
    stream_usage temperature top_k top_logprobs top_p topK topP
"""
"""How the answer is chosen, how long it may be, and how it's sent."""

_OF_THE_SERVICE: Final = """
    additionalModelResponseFieldPaths anthropic_version background cache_control extra_headers
    extra_query guardrail_identifier guardrail_stream_processing_mode guardrail_version
    guardrailConfig include inference_geo keep_alive metadata performanceConfig prompt_cache_key
    prompt_cache_retention requestMetadata safety_identifier service_tier serviceTier speed
    store trace user
"""
"""Whose it is, and how it's served, kept and billed."""

_RULED_ELSEWHERE: Final = """
    functions messages model model_id model_name modelId tool_choice toolConfig tools
"""
"""What is counted by other rules."""

_OF_FRAMEWORKS: Final = """
    _type allow_parallel_tool_calls api_base api_key api_version
    application_inference_profile_arn aws_access_key_id aws_secret_access_key aws_session_token
    base_url botocore_config botocore_session cache_idx call_metadata callback_manager
    class_name completion_to_prompt context_size context_window default_headers endpoint_url
    formatted headers is_chat_model is_function_calling_model max_retries messages_to_prompt
    output_parser profile_name prompt_key provider pydantic_program_mode query_wrapper_prompt
    rate_limiter region_name request_timeout responses reuse_client supports_forced_tool_calls
    system_prompt system_prompt_caching system_role timeout tool_caching tool_required use_ssl
    verify
"""
"""How frameworks reach their provider, and options of theirs that aren't sent."""

FREE: Final = frozenset(
    (_OF_THE_ANSWER + _OF_THE_SERVICE + _RULED_ELSEWHERE + _OF_FRAMEWORKS).split()
)
"""What adds nothing to the prompt, or is counted by another rule."""

NESTED: Final = (
    "additional_kwargs",
    "generation_config",
    "generationConfig",
    "config",
    "options",
    "inferenceConfig",
    "textGenerationConfig",
    "additionalModelRequestFields",
    "extra_body",
    "model_kwargs",
)
"""Names of mappings that fields stand in, if not beside the others."""

THINKING: Final = ("thinking", "thinking_dict", "reasoning_config")
"""What switches Claude's thinking on, in the words of its API and of integrations."""

_TOOLS: Final = ("tools", "functions", "toolConfig")

_LEFT_OUT: Final = FREE - {*_TOOLS, "tool_choice"}
"""What no count depends on, in any form."""

_WRITTEN: Final = frozenset(
    {
        "format",
        "guided_json",
        "instructions",
        "output_config",
        "output_format",
        "outputConfig",
        "response_format",
        "response_schema",
        "responseJsonSchema",
        "responseSchema",
        "text",
    }
)
"""What the model gets to read, in a form that nobody publishes."""

_DEFAULTS: Final[Mapping[str, tuple[object, ...]]] = {
    "response_format": ({"type": "text"},),
    "text": ({"format": {"type": "text"}},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "truncation": ("disabled",),
    **{name: ({"type": "disabled"},) for name in THINKING},
}
"""What is as if it weren't there."""

NONE: Final[Mapping[str, Any]] = MappingProxyType({})
"""No field at all."""

PLAIN: Final = (bool, dict, float, int, list, str, tuple)
"""The types of what JSON can say."""


def kept(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a count depends on, without the program's other objects."""
    return {name: value for name, value in fields.items() if name not in _LEFT_OUT}


def is_empty(value: object) -> bool:
    """Whether a field holds nothing; no code of an odd value's class is run."""
    return value is None or (type(value) in PLAIN and not value)


def uncovered(fields: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """The fields that no rule covers, with their values."""
    for name, value in fields.items():
        if name in FREE or is_empty(value):
            continue
        if name in NESTED and type(value) is dict:
            yield from uncovered(cast("dict[str, Any]", value))
        elif not any(type(value) is type(one) and value == one for one in _DEFAULTS.get(name, ())):
            yield name, value


def is_written(name: str) -> bool:
    """Whether the model gets to read such a field, however that is put."""
    return name in _WRITTEN


def field_of(fields: Mapping[str, Any], *names: str) -> Any:
    """What the first of these holds that is there, be it within others; else `None`."""
    places: list[Any] = [fields, *[fields.get(name) for name in NESTED]] if fields else []
    for place in places:
        if place is None or not issubclass(type(place), Mapping):
            continue
        for name in names:
            if not is_empty(place.get(name)):
                return place[name]
    return None


def tools_in(fields: Mapping[str, Any]) -> object:
    """The tools that are sent along, in whatever form."""
    return field_of(fields, *_TOOLS)
