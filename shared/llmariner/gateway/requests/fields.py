"""The fields that each route validates. All others, unknown fields included, reach the engine unchanged.

Only what is invalid for every engine is rejected here, so that a plain mistake never wakes a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from llmariner.errors import InvalidRequest
from llmariner.gateway.requests.json_schema import check_schema, check_schemas

__all__ = [
    "CHAT_COMPLETIONS",
    "COMPLETIONS",
    "DETOKENIZE",
    "EMBEDDINGS",
    "RAG",
    "RERANK",
    "TOKENIZE",
    "Route",
    "check_fields",
    "is_file_search",
    "requested_max_tokens",
]

Check = Callable[[Any, str], None]
# Not `float`: compiled code would convert an integer, and lose digits of a large one.
Number = int | float
RAG = "rag"
"""The name of LLMariner's function that searches a vector store."""


@dataclass(frozen=True)
class Route:
    """A route of the token path: its public path, the engine's path, its field checks, and the scope that it requires.

    `runs_model`: whether the model reads the prompt, so that it costs tokens. `default_max_tokens`: the upper bound of
    completion tokens when the request sets none; None: the model's context length. `max_tokens_fields`: the fields that
    set it, which must agree. `choice_count_fields`: the fields that set the number of choices per prompt; the greatest
    counts. `prompt_field`: the field that may hold several prompts. `query_field`: the field that the model reads with each
    of them. Other fields bound nothing.
    """

    name: str
    path: str
    engine_path: str
    task: str | None
    required: tuple[str, ...]
    checks: dict[str, Check]
    streams: bool = False
    scope: str = "api.inference.write"
    runs_model: bool = True
    default_max_tokens: int | None = None
    max_tokens_fields: tuple[str, ...] = ()
    choice_count_fields: tuple[str, ...] = ()
    prompt_field: str | None = None
    query_field: str | None = None


def check_fields(route: Route, body: dict[str, Any]) -> None:
    """InvalidRequest for the first field that is missing or of the wrong type."""
    for name in route.required:
        if body.get(name) is None:
            raise InvalidRequest(
                f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
            )
    for name, value in body.items():
        check = route.checks.get(name)
        if check is None:
            if name.casefold() in route.checks:
                raise _wrong_case(name)
        elif value is not None:
            check(value, name)


def _wrong_case(name: str) -> InvalidRequest:
    """Engines in Go match field names without regard to case, other engines do not."""
    return InvalidRequest(
        f"Unknown parameter: '{name}'. Names are in lower case: send '{name.casefold()}'.",
        param=name,
        code="unknown_parameter",
    )


def requested_max_tokens(route: Route, body: dict[str, Any]) -> int | None:
    """The upper bound of one completion, from any of the route's fields or its default; None: the context length.

    InvalidRequest where two fields differ, because engines differ in which of them they use.
    """
    name, value = "", None
    for other in route.max_tokens_fields:
        if (other_value := body.get(other)) is None:
            continue
        if value is not None and other_value != value:
            raise InvalidRequest(
                f"'{name}' is {value} and '{other}' is {other_value}, which contradict one another: send one of them.",
                param=other,
                code="invalid_value",
            )
        name, value = other, other_value
    if value is None:
        return route.default_max_tokens
    # Some engines read 0 as unlimited.
    if value == 0 and not body.get("echo"):
        raise InvalidRequest(
            f"Invalid '{name}': expected at least 1; 0 is for requests with 'echo'.", param=name, code="invalid_value"
        )
    max_tokens: int = value
    return max_tokens


def _type_error(param: str, expected: str, value: Any) -> InvalidRequest:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer"}
    kinds |= {float: "a decimal number", type(None): "null"}
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {kinds[type(value)]} instead.",
        param=param,
        code="invalid_type",
    )


def _string(value: Any, param: str) -> None:
    if not isinstance(value, str):
        raise _type_error(param, "a string", value)


def _non_empty_string(value: Any, param: str) -> None:
    _string(value, param)
    if not value:
        raise InvalidRequest(f"'{param}' must not be empty.", param=param, code="invalid_value")


def _boolean(value: Any, param: str) -> None:
    if not isinstance(value, bool):
        raise _type_error(param, "a boolean", value)


def _object(value: Any, param: str) -> None:
    if not isinstance(value, dict):
        raise _type_error(param, "an object", value)


def _array(value: Any, param: str) -> None:
    if not isinstance(value, list):
        raise _type_error(param, "an array", value)


def _number(minimum: Number, maximum: Number) -> Check:
    def check(value: Any, param: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _type_error(param, "a number", value)
        _check_range(value, minimum, maximum, param)

    return check


def _integer(minimum: int, maximum: int) -> Check:
    def check(value: Any, param: str) -> None:
        if isinstance(value, float) and abs(value) >= 2**63:  # orjson parses an integer of more than 64 bits as a float
            raise _range_error(value, minimum, maximum, param)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _type_error(param, "an integer", value)
        _check_range(value, minimum, maximum, param)

    return check


def _check_range(value: Number, minimum: Number, maximum: Number, param: str) -> None:
    if not minimum <= value <= maximum:
        raise _range_error(value, minimum, maximum, param)


def _range_error(value: Number, minimum: Number, maximum: Number, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': expected a value from {minimum} to {maximum}, but got {value} instead.",
        param=param,
        code="invalid_value",
    )


def _messages(value: Any, param: str) -> None:
    _array(value, param)
    if not value:
        raise InvalidRequest(f"Invalid '{param}': expected at least one message.", param=param, code="empty_array")
    for index, message in enumerate(value):
        # Nearly all messages are of this form; `_message` names what is wrong with another one.
        if not (
            isinstance(message, dict)
            and isinstance(message.get("content"), str)
            and isinstance(role := message.get("role"), str)
            and role
        ):
            _message(message, f"{param}[{index}]")


def _message(message: Any, param: str) -> None:
    _object(message, param)
    role = message.get("role")
    if role is None:
        raise InvalidRequest(
            f"Missing required parameter: '{param}.role'.", param=f"{param}.role", code="missing_required_parameter"
        )
    _non_empty_string(role, f"{param}.role")
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise _type_error(f"{param}.content", "a string or an array", content)
    if isinstance(content, list):
        _content_parts(content, f"{param}.content")


def _content_parts(parts: list[Any], param: str) -> None:
    """Checks for which engines would list one error per kind of content part."""
    for index, part in enumerate(parts):
        param_path = f"{param}[{index}]"
        _object(part, param_path)
        if part.get("type") == "text":
            _string(part.get("text"), f"{param_path}.text")


_TEXT_OR_TOKENS = frozenset({str, int, list})


def _text_or_tokens(value: Any, param: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise _type_error(param, "a string or an array", value)
    if not value:
        raise InvalidRequest(f"'{param}' must not be an empty array.", param=param, code="empty_array")
    if _TEXT_OR_TOKENS.issuperset(map(type, value)):  # a fast check: half a million items take milliseconds
        return
    for index, item in enumerate(value):
        if isinstance(item, bool) or not isinstance(item, str | int | list):
            raise _type_error(f"{param}[{index}]", "a string, an integer or an array of integers", item)


def _text_or_content(value: Any, param: str) -> None:
    """A text, or an object in the engine's own form."""
    if not isinstance(value, str | dict):
        raise _type_error(param, "a string or an object", value)
    if not value:
        raise InvalidRequest(f"'{param}' must not be empty.", param=param, code="invalid_value")


def _documents(value: Any, param: str) -> None:
    _array(value, param)
    if not value:
        raise InvalidRequest(f"'{param}' must not be an empty array.", param=param, code="empty_array")
    if set(map(type, value)) == {str}:  # as for `_text_or_tokens`; engines accept empty documents
        return
    for index, document in enumerate(value):
        if not isinstance(document, str | dict):
            raise _type_error(f"{param}[{index}]", "a string or an object", document)
        # Engines repeat documents after the usage, which is the last member of this name for the meter.
        if isinstance(document, dict) and b'"usage":' in orjson.dumps(document):
            place = f"{param}[{index}]"
            raise InvalidRequest(f"'{place}' may have no member 'usage'.", param=place, code="unknown_parameter")


def _stop(value: Any, param: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list) or set(map(type, value)) - {str}:
        raise _type_error(param, "a string or an array of strings", value)


def _tool_choice(value: Any, param: str) -> None:
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise InvalidRequest(
                f"Invalid '{param}': expected 'auto', 'none', 'required' or an object.",
                param=param,
                code="invalid_value",
            )
    elif not isinstance(value, dict):
        raise _type_error(param, "a string or an object", value)


def _one_of(*allowed: str) -> Check:
    def check(value: Any, param: str) -> None:
        _string(value, param)
        if value not in allowed:
            names = " or ".join(f"'{name}'" for name in allowed)
            raise InvalidRequest(
                f"Invalid '{param}': expected {names}, but got '{value}' instead.", param=param, code="invalid_value"
            )

    return check


def _unsupported(hint: str) -> Check:
    """A field that only some engines support, or whose cost has no upper bound."""

    def check(value: Any, param: str) -> None:
        raise InvalidRequest(
            f"Unsupported parameter: '{param}' is not supported on this route. {hint}",
            param=param,
            code="unsupported_parameter",
        )

    return check


def _must_be_false(value: Any, param: str) -> None:
    _boolean(value, param)
    if value:
        _unsupported("Leave it out, or ask for several answers with 'n'.")(value, param)


def _response_format(value: Any, param: str) -> None:
    _object(value, param)
    json_schema = value.get("json_schema")
    if isinstance(json_schema, dict):
        check_schema(json_schema.get("schema"), f"{param}.json_schema.schema")


def _structured_outputs(value: Any, param: str) -> None:
    _object(value, param)
    check_schema(value.get("json"), f"{param}.json")


def is_file_search(tool: Any) -> bool:
    """Whether a tool is OpenAI's `file_search`, or LLMariner's function `rag`, which names a store in place of a schema."""
    if not isinstance(tool, dict):
        return False
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict) or function.get("name") != RAG:
        return tool.get("type") == "file_search"
    parameters = function.get("parameters")
    return isinstance(parameters, dict) and isinstance(parameters.get("vector_store_name"), str)


def _tools(value: Any, param: str) -> None:
    _array(value, param)
    functions = ((index, tool.get("function")) for index, tool in enumerate(value) if isinstance(tool, dict))
    check_schemas(
        (function.get("parameters"), f"{param}[{index}].function.parameters")
        for index, function in functions
        if isinstance(function, dict)
    )


_MAX_TOKENS = 2**31 - 1
_SAMPLING_CHECKS: dict[str, Check] = {
    "model": _non_empty_string,
    "stream": _boolean,
    "stream_options": _object,
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "max_tokens": _integer(1, _MAX_TOKENS),
    "n": _integer(1, 128),
    # Its steps are separate requests inside the engine, which stay uncounted after a disconnect.
    "use_beam_search": _must_be_false,
    "seed": _integer(-(2**63), 2**63 - 1),
    "stop": _stop,
    "logit_bias": _object,
    "user": _string,
    "response_format": _response_format,
    # vLLM's names for the same.
    "structured_outputs": _structured_outputs,
    "guided_json": check_schema,
}

CHAT_COMPLETIONS = Route(
    name="chat_completions",
    path="/v1/chat/completions",
    engine_path="/v1/chat/completions",
    task="generate",
    required=("model", "messages"),
    checks={
        **_SAMPLING_CHECKS,
        "messages": _messages,
        "max_completion_tokens": _integer(1, _MAX_TOKENS),
        "logprobs": _boolean,
        "top_logprobs": _integer(0, 20),
        "tools": _tools,
        "tool_choice": _tool_choice,
        "parallel_tool_calls": _boolean,
    },
    streams=True,
    max_tokens_fields=("max_tokens", "max_completion_tokens"),
    choice_count_fields=("n",),
)
COMPLETIONS = Route(
    name="completions",
    path="/v1/completions",
    engine_path="/v1/completions",
    task="generate",
    required=("model", "prompt"),
    checks={
        **_SAMPLING_CHECKS,
        # 0 is valid with `echo`, which returns the prompt alone.
        "max_tokens": _integer(0, _MAX_TOKENS),
        "max_completion_tokens": _unsupported("Use 'max_tokens' instead."),
        "prompt": _text_or_tokens,
        "prompt_embeds": _unsupported("Send 'prompt' instead."),
        "best_of": _integer(1, 20),
        "echo": _boolean,
        "logprobs": _integer(0, 20),
        "suffix": _string,
    },
    streams=True,
    default_max_tokens=16,
    max_tokens_fields=("max_tokens",),
    choice_count_fields=("n", "best_of"),
    prompt_field="prompt",
)
EMBEDDINGS = Route(
    name="embeddings",
    path="/v1/embeddings",
    engine_path="/v1/embeddings",
    task="embed",
    required=("model", "input"),
    checks={
        "model": _non_empty_string,
        "input": _text_or_tokens,
        # vLLM's other formats are not JSON, and hold the usage elsewhere.
        "encoding_format": _one_of("float", "base64"),
        "messages": _unsupported("Send 'input' instead."),
        "padding": _one_of("do_not_pad"),
        "dimensions": _integer(1, 65536),
        "user": _string,
    },
    default_max_tokens=0,
    prompt_field="input",
)
# The form of Jina and Cohere, which vLLM and other gateways have.
RERANK = Route(
    name="rerank",
    path="/v1/rerank",
    engine_path="/v1/rerank",
    task="embed",
    required=("model", "query", "documents"),
    checks={
        "model": _non_empty_string,
        "query": _text_or_content,
        "documents": _documents,
        "top_n": _integer(0, 2**31 - 1),
        "return_documents": _boolean,
        "user": _string,
    },
    default_max_tokens=0,
    prompt_field="documents",
    query_field="query",
)
TOKENIZE = Route(
    name="tokenize",
    path="/v1/tokenize",
    engine_path="/tokenize",
    task=None,
    required=("model",),
    checks={"model": _non_empty_string, "prompt": _string, "messages": _messages, "add_special_tokens": _boolean},
    runs_model=False,
    default_max_tokens=0,
)
DETOKENIZE = Route(
    name="detokenize",
    path="/v1/detokenize",
    engine_path="/detokenize",
    task=None,
    required=("model", "tokens"),
    checks={"model": _non_empty_string, "tokens": _array},
    runs_model=False,
    default_max_tokens=0,
)
