"""What `langchain-openai` can do with a server: one line per capability.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... python langchain_openai_client.py

prints `ok NAME`, `failed NAME: why` or `skipped NAME: why`, and ends with 1 when anything failed. More variables:

    OPENAI_MODEL, OPENAI_EMBEDDING_MODEL        other models than the platform's own two
    OPENAI_RESTRICTED_KEY                       a key that may not chat
    OPENAI_LIMITED_BASE_URL, OPENAI_LIMITED_KEY a server and a key that is allowed one request a minute
"""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import openai
from capability_report import Skipped, error_of, report  # type: ignore[import-not-found]
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage  # type: ignore[import-not-found]
from langchain_core.tools import tool  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # type: ignore[import-not-found]

# langchain keeps one asynchronous connection pool for all its models, so that one loop must serve them all.
LOOP = asyncio.Runner()
MODEL = os.environ.get("OPENAI_MODEL", "smollm2-135m-instruct")
EMBEDDING_MODEL = os.environ.get("OPENAI_EMBEDDING_MODEL", "all-minilm-l6-v2")
CAPITAL = "What is the capital of France?"
WEATHER = "What is the weather in Paris?"
PERSON = {
    "title": "person",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def model(**fields: Any) -> Any:
    return ChatOpenAI(**{"model": MODEL, "temperature": 0, "timeout": 300, **fields})


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"18 degrees in {city}"


def chat() -> None:
    answer = model().invoke(CAPITAL)
    assert "Paris" in answer.content, answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["total_tokens"] > 0


def chat_conversation() -> None:
    answer = model(max_tokens=16).invoke(
        [("system", "You are terse."), ("human", CAPITAL), ("ai", "Paris."), ("human", "And?")]
    )
    assert answer.content


def chat_batch() -> None:
    answers = model(max_tokens=16).batch([CAPITAL, "What is the capital of Italy?"])
    assert "Paris" in answers[0].content
    assert "Rome" in answers[1].content


def chat_async() -> None:
    assert "Paris" in LOOP.run(model().ainvoke(CAPITAL)).content


def stream() -> None:
    parts = [part.content for part in model().stream(CAPITAL)]
    assert len(parts) > 3
    assert "Paris" in "".join(parts)


def stream_usage() -> None:
    whole = model().invoke(CAPITAL).usage_metadata
    usages = [part.usage_metadata for part in model(stream_usage=True).stream(CAPITAL) if part.usage_metadata]
    assert [usage["total_tokens"] for usage in usages] == [whole["total_tokens"]]


def stream_async() -> None:
    async def text() -> str:
        return "".join([part.content async for part in model().astream(CAPITAL)])

    assert "Paris" in LOOP.run(text())


def stream_cancel() -> None:
    parts = model(max_tokens=1500, extra_body={"ignore_eos": True}).stream("Count from 1 to 1000, one number a line.")
    for _ in range(5):
        next(parts)
    parts.close()
    assert "Paris" in model().invoke(CAPITAL).content


def tools_required() -> None:
    bound = model().bind_tools([tool(get_weather)], tool_choice="required", strict=True)
    _is_weather_in_paris(bound.invoke(WEATHER).tool_calls)


def tools_named() -> None:
    bound = model().bind_tools([tool(get_weather)], tool_choice="get_weather", strict=True)
    _is_weather_in_paris(bound.invoke(WEATHER).tool_calls)


def _is_weather_in_paris(calls: Any) -> None:
    assert [(call["name"], call["args"]) for call in calls] == [("get_weather", {"city": "Paris"})]


def tools_answered() -> None:
    call = {"id": "call_1", "name": "get_weather", "args": {"city": "Paris"}}
    answered = [AIMessage("", tool_calls=[call]), ToolMessage("18 degrees, sunny", tool_call_id="call_1")]
    assert model(max_tokens=16).invoke([HumanMessage(WEATHER), *answered]).content


def json_schema() -> None:
    structured = model().with_structured_output(PERSON, method="json_schema", strict=True)
    assert structured.invoke("John is 30 years old. Write his name and age as a JSON object.") == {
        "name": "John",
        "age": 30,
    }


def logprobs() -> None:
    answer = model(max_tokens=4, logprobs=True, top_logprobs=3).invoke(CAPITAL)
    tokens = answer.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == answer.content
    assert all(len(token["top_logprobs"]) == 3 for token in tokens)


def embeddings() -> None:
    """Sent as text: by default, langchain sends the token ids of OpenAI's own models."""
    cat, kitten, market = embedder().embed_documents(["a cat", "a kitten", "the stock market"])
    assert _dot(cat, kitten) > _dot(cat, market) + 0.2
    assert _dot(embedder().embed_query("a cat"), cat) > 0.999


def embeddings_async() -> None:
    assert len(LOOP.run(embedder().aembed_query("a cat"))) > 100


def embedder() -> Any:
    return OpenAIEmbeddings(model=EMBEDDING_MODEL, check_embedding_ctx_length=False)


def _dot(one: Any, other: Any) -> float:
    return float(sum(a * b for a, b in zip(one, other, strict=True)))


def request_id() -> None:
    answer = model(include_response_headers=True, max_tokens=1).invoke(CAPITAL)
    assert answer.response_metadata["headers"]["x-request-id"]


def wrong_key() -> None:
    _refused(lambda: model(api_key="sk-wrong").invoke(CAPITAL), openai.AuthenticationError)


def restricted_key() -> None:
    key = os.environ.get("OPENAI_RESTRICTED_KEY")
    if not key:
        raise Skipped("OPENAI_RESTRICTED_KEY is not set")
    _refused(lambda: model(api_key=key).invoke(CAPITAL), openai.PermissionDeniedError)


def unknown_model() -> None:
    assert _refused(lambda: model(model="no-such-model").invoke(CAPITAL), openai.NotFoundError).request_id


def bad_request() -> None:
    assert _refused(lambda: model(top_p=3).invoke(CAPITAL), openai.BadRequestError).param == "top_p"


def rate_limit() -> None:
    url, key = os.environ.get("OPENAI_LIMITED_BASE_URL"), os.environ.get("OPENAI_LIMITED_KEY")
    if not (url and key):
        raise Skipped("OPENAI_LIMITED_BASE_URL and OPENAI_LIMITED_KEY are not set")
    limited = model(base_url=url, api_key=key, max_retries=0, model="no-such-model")
    _refused(lambda: limited.invoke(CAPITAL), openai.NotFoundError)
    _refused(lambda: limited.invoke(CAPITAL), openai.RateLimitError)


def _refused(ask: Callable[[], Any], kind: type[openai.APIStatusError]) -> Any:
    """The error, once it is known to be the right one; langchain lets the SDK's own errors through."""
    error = error_of(ask)
    assert isinstance(error, kind), f"{error!r} instead of {kind.__name__}"
    return error


CAPABILITIES = (
    chat,
    chat_conversation,
    chat_batch,
    chat_async,
    stream,
    stream_usage,
    stream_async,
    stream_cancel,
    tools_required,
    tools_named,
    tools_answered,
    json_schema,
    logprobs,
    embeddings,
    embeddings_async,
    request_id,
    wrong_key,
    restricted_key,
    unknown_model,
    bad_request,
    rate_limit,
)


if __name__ == "__main__":
    sys.exit(report(CAPABILITIES))
