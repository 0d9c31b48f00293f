"""What the `openai` package for Python, 2.x and 3.x, can do with a server: one line per capability.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... python openai_python.py

prints `ok NAME`, `failed NAME: why` or `skipped NAME: why`, and ends with 1 when anything failed. More variables:

    OPENAI_MODEL, OPENAI_EMBEDDING_MODEL        other models than the platform's own two
    OPENAI_RESTRICTED_KEY                       a key that may not chat
    OPENAI_LIMITED_BASE_URL, OPENAI_LIMITED_KEY a server and a key that is allowed one request a minute
"""

import asyncio
import base64
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import openai
from capability_report import Skipped, error_of, report  # type: ignore[import-not-found]
from openai import OpenAI

MODEL = os.environ.get("OPENAI_MODEL", "smollm2-135m-instruct")
EMBEDDING_MODEL = os.environ.get("OPENAI_EMBEDDING_MODEL", "all-minilm-l6-v2")
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
LONG: list[Any] = [{"role": "user", "content": "Count from 1 to 1000, one number a line."}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "strict": True, "parameters": CITY}},
    {"type": "function", "function": {"name": "get_time", "strict": True, "parameters": CITY}},
]
CANCEL_SECONDS = 15.0


def models_list(client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {MODEL, EMBEDDING_MODEL} <= models.keys(), f"only {sorted(models)} are listed"
    assert all(model.object == "model" and model.created > 0 and model.owned_by for model in models.values())


def models_retrieve(client: OpenAI) -> None:
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object) == (MODEL, "model")


def chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0)
    choice = answer.choices[0]
    assert "Paris" in (choice.message.content or ""), choice.message.content
    assert (answer.object, answer.model, choice.finish_reason) == ("chat.completion", MODEL, "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def chat_conversation(client: OpenAI) -> None:
    messages = [{"role": "system", "content": "You are terse."}, *CAPITAL, {"role": "assistant", "content": "Paris."}]
    messages += [{"role": "user", "content": "And of Italy?"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=16)
    assert answer.choices[0].message.content


def chat_choices(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=CAPITAL, seed=1, max_tokens=4, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)


def chat_limit(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def completions(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=1)
    assert "Paris" in answer.choices[0].text, answer.choices[0].text


def stream(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "Paris" in text, text
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks), "usage was sent though nobody asked for it"
    assert len({chunk.id for chunk in chunks}) == 1


def stream_usage(client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, temperature=0, stream=True, stream_options=options
    )
    *parts, last = list(answer)
    assert all(part.usage is None for part in parts), "usage was sent before the last chunk"
    assert last.choices == []
    whole = client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0).usage
    assert last.usage is not None
    assert whole is not None
    assert last.usage.total_tokens == whole.total_tokens


def stream_async(_: OpenAI) -> None:
    async def text() -> str:
        async with openai.AsyncOpenAI() as client:
            answer = await client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])

    assert "Paris" in asyncio.run(text())


def stream_cancel(client: OpenAI) -> None:
    endless: Any = {"ignore_eos": True}
    answer = client.chat.completions.create(
        model=MODEL, messages=LONG, temperature=0, max_tokens=1500, stream=True, extra_body=endless
    )
    for _, _chunk in zip(range(5), answer, strict=False):
        pass
    answer.close()
    deadline = time.monotonic() + CANCEL_SECONDS
    while _running(client):
        assert time.monotonic() < deadline, f"the engine still works {CANCEL_SECONDS} s after the stream was closed"
        time.sleep(0.2)
    assert client.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=1).choices


def _running(client: OpenAI) -> int:
    """How many requests the engine works on, where the server says so."""
    serving: Any = (client.models.retrieve(MODEL).model_extra or {}).get("serving") or {}
    return int(serving.get("requests_running", 0))


def tools_required(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=WEATHER, temperature=0, tools=TOOLS[:1], tool_choice="required"
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    _is_weather_in_paris(answer.choices[0].message.tool_calls)


def tools_named(client: OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(
        model=MODEL, messages=WEATHER, temperature=0, tools=TOOLS, tool_choice=named
    )
    _is_weather_in_paris(answer.choices[0].message.tool_calls)


def _is_weather_in_paris(calls: Any) -> None:
    assert calls, "no tool was called"
    assert calls[0].id
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments) == {"city": "Paris"}, calls[0].function.arguments


def tools_stream(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=WEATHER, temperature=0, tools=TOOLS[:1], tool_choice="required", stream=True
    )
    deltas = [call for chunk in answer for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas, "no tool was called"
    assert deltas[0].function is not None
    assert deltas[0].function.name == "get_weather"
    arguments = "".join((delta.function and delta.function.arguments) or "" for delta in deltas)
    assert json.loads(arguments) == {"city": "Paris"}, arguments


def tools_answered(client: OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [*WEATHER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages += [{"role": "tool", "tool_call_id": "call_1", "content": "18 degrees, sunny"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=16)
    assert answer.choices[0].message.content


def json_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "John is 30 years old. Write his name and age as a JSON object."}],
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "strict": True, "schema": PERSON},
        },
    )
    assert json.loads(answer.choices[0].message.content or "") == {"name": "John", "age": 30}


def logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content or []
    assert len(tokens) == 4
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens)
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content


def embeddings_float(client: OpenAI) -> None:
    texts = ["a cat", "a kitten", "the stock market"]
    answer = client.embeddings.create(model=EMBEDDING_MODEL, input=texts, encoding_format="float")
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens > 0
    cat, kitten, market = (item.embedding for item in answer.data)
    assert _dot(cat, kitten) > _dot(cat, market) + 0.2


def embeddings_base64(client: OpenAI) -> None:
    """The format that the SDK requests and decodes by default."""
    raw: Any = client.embeddings.create(model=EMBEDDING_MODEL, input="a cat", encoding_format="base64")
    packed = base64.b64decode(raw.data[0].embedding)
    numbers = struct.unpack(f"<{len(packed) // 4}f", packed)
    unnamed = client.embeddings.create(model=EMBEDDING_MODEL, input="a cat").data[0].embedding
    assert len(numbers) == len(unnamed)
    assert _dot(numbers, unnamed) > 0.999


def _dot(one: Any, other: Any) -> float:
    return float(sum(a * b for a, b in zip(one, other, strict=True)))


def request_id(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=1)
    assert whole._request_id, "no x-request-id"
    raw = client.models.with_raw_response.list()
    assert raw.headers.get("x-request-id"), "no x-request-id"
    assert raw.headers["x-request-id"] != whole._request_id


def wrong_key(client: OpenAI) -> None:
    unauthorized = client.with_options(api_key="sk-wrong")
    for ask in (unauthorized.models.list, lambda: unauthorized.chat.completions.create(model=MODEL, messages=CAPITAL)):
        _refused(ask, openai.AuthenticationError, 401, "invalid_api_key")


def restricted_key(client: OpenAI) -> None:
    key = os.environ.get("OPENAI_RESTRICTED_KEY")
    if not key:
        raise Skipped("OPENAI_RESTRICTED_KEY is not set")
    weak = client.with_options(api_key=key)
    _refused(lambda: weak.chat.completions.create(model=MODEL, messages=CAPITAL), openai.PermissionDeniedError, 403)


def unknown_model(client: OpenAI) -> None:
    for ask in (
        lambda: client.chat.completions.create(model="no-such-model", messages=CAPITAL),
        lambda: client.embeddings.create(model="no-such-model", input="a cat"),
        lambda: client.models.retrieve("no-such-model"),
    ):
        _refused(ask, openai.NotFoundError, 404, "model_not_found")


def unknown_url(client: OpenAI) -> None:
    _refused(lambda: client.get("/no-such-url", cast_to=object), openai.NotFoundError, 404, "unknown_url")


def unknown_url_request_id(client: OpenAI) -> None:
    error = _refused(lambda: client.get("/no-such-url", cast_to=object), openai.NotFoundError, 404)
    assert error.request_id, "no x-request-id"


def bad_request(client: OpenAI) -> None:
    wrong: list[tuple[str, Any]] = [("temperature", 9), ("messages", []), ("tool_choice", "perhaps"), ("n", 0)]
    for param, value in wrong:
        fields: dict[str, Any] = {"model": MODEL, "messages": CAPITAL, param: value}
        error = _refused(partial(client.chat.completions.create, **fields), openai.BadRequestError, 400)
        assert error.request_id, "no x-request-id"
        assert error.param == param, f"{param}: the error names {error.param}"
        assert error.type == "invalid_request_error"


def too_long(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "word " * 20_000}]
    ask = partial(client.chat.completions.create, model=MODEL, messages=messages, max_tokens=1)
    _refused(ask, openai.BadRequestError, 400, "context_length_exceeded")


def rate_limit(_: OpenAI) -> None:
    url, key = os.environ.get("OPENAI_LIMITED_BASE_URL"), os.environ.get("OPENAI_LIMITED_KEY")
    if not (url and key):
        raise Skipped("OPENAI_LIMITED_BASE_URL and OPENAI_LIMITED_KEY are not set")
    limited = OpenAI(base_url=url, api_key=key, max_retries=0)
    ask = partial(limited.chat.completions.create, model="no-such-model", messages=CAPITAL)
    _refused(ask, openai.NotFoundError, 404)
    error = _refused(ask, openai.RateLimitError, 429, "rate_limit_exceeded")
    assert 0 < int(error.response.headers["retry-after"]) <= 60
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"


def _refused(ask: Callable[[], Any], kind: type[openai.APIStatusError], status: int, code: str = "") -> Any:
    """The error, once it is known to be the right one."""
    error = error_of(ask)
    assert type(error) is kind, f"{error!r} instead of {kind.__name__}"
    assert error.status_code == status
    assert not code or error.code == code, f"the code is {error.code} instead of {code}"
    assert error.message
    return error


CAPABILITIES = (
    models_list,
    models_retrieve,
    chat,
    chat_conversation,
    chat_choices,
    chat_limit,
    completions,
    stream,
    stream_usage,
    stream_async,
    stream_cancel,
    tools_required,
    tools_named,
    tools_stream,
    tools_answered,
    json_schema,
    logprobs,
    embeddings_float,
    embeddings_base64,
    request_id,
    wrong_key,
    restricted_key,
    unknown_model,
    unknown_url,
    unknown_url_request_id,
    bad_request,
    too_long,
    rate_limit,
)


if __name__ == "__main__":
    print(f"openai {openai.__version__}", file=sys.stderr)
    sys.exit(report(CAPABILITIES, OpenAI(timeout=300)))
