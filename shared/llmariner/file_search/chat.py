"""`file_search` in a chat completion: what is searched, the body that the engine receives, and the response's additions."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from llmariner.errors import InvalidRequest
from llmariner.file_search.annotated_response import AnnotatedResponse
from llmariner.file_search.citations import Citations
from llmariner.file_search.passages import Passage, new_key, with_passages
from llmariner.file_search.prompt_budget import completion_reserve, fitting
from llmariner.file_search.query import last_question, queries
from llmariner.file_search.store_search import QueryTooLong, StoreSearch
from llmariner.file_search.tool import FileSearchTool, take_tool
from llmariner.gateway.admission.chat_template import max_prompt_tokens
from llmariner.gateway.admission.model_checks import check_model_access
from llmariner.gateway.requests.parser import ModelRequest, with_member, without_member
from llmariner.http_client import ConnectionFailed, ResponseFailed

if TYPE_CHECKING:
    from llmariner.gateway.authentication.client_attestation import ClientAddress
    from llmariner.gateway.control_plane.port import Key, ModelState
    from llmariner.gateway.requests.fields import Route
    from llmariner.gateway.responses.messages import Send
    from llmariner.gateway.state import Gateway

__all__ = ["FileSearch", "search_files"]

_JSON = (b"content-type", b"application/json")
_TOKENIZE_SECONDS = 10.0
# An engine lists the number of each token: of at most one a byte, and of those of its template and of images.
_TOKENIZED_BYTES_PER_BYTE, _MAX_MORE_BYTES = 8, 1024 * 1024
_TOKEN_COUNT = re.compile(rb'"count"\s*:\s*([1-9]\d{0,9})\b')
_SHORT_QUERY = 200
# The search may wait as long for its embedding model as the request for its own, up to a minute; then it has to work.
_MAX_WAIT_SECONDS, _WORK_SECONDS = 60.0, 30.0
# What a chat template reads, beside the messages.
_TEMPLATE_FIELDS = frozenset(
    [
        "model",
        "tools",
        "chat_template",
        "chat_template_kwargs",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
        "reasoning_effort",
        "mm_processor_kwargs",
    ]
)


async def search_files(
    gateway: Gateway,
    route: Route,
    key: Key,
    request: ModelRequest,
    headers: Mapping[bytes, bytes],
    client: ClientAddress,
    wait: float,
) -> tuple[ModelRequest, FileSearch | None]:
    """Search for a request with the tool; the request without the tool, with every passage that was found.

    None: `tool_choice` forbids the search. `wait`: the seconds that the request may wait for a model. Raises the errors of
    the request, the model and the search.
    """
    fields = orjson.loads(request.body)
    tool, changes = take_tool(fields)
    model_id = gateway.registry_id(key, request.model)
    state = gateway.ready_state(model_id) or await gateway.state(model_id)
    check_model_access(state, key, route)
    body = request.body
    for name, value in changes.items():
        if name in fields:
            body = without_member(body, name)
        if value is not None:
            body = with_member(body, name, orjson.dumps({name: value})[1:-1], replacing=False)
    request = request.replace(
        body=body,
        max_prompt_tokens=len(body),
        tool_count=len(changes["tools"] or ()),
        file_search=False,
    )
    if tool is None:
        return request, None
    last_question(fields["messages"])
    asked = queries(fields["messages"]), queries(fields["messages"], _SHORT_QUERY)
    # While the search waits, the parsed request would take many times the memory that its body has reserved.
    del fields
    search = StoreSearch(
        gateway.engine_client,
        gateway.settings.functions_url,
        headers,
        client,
        gateway.service_secret,
        seconds=min(wait, _MAX_WAIT_SECONDS) + _WORK_SECONDS,
    )
    used, results = await _results(search, tool, *asked)
    found = FileSearch(gateway, request, tool, used, [Passage.from_result(each) for each in results])
    return _bounded(found.whole_request(), request, await gateway.context_length(model_id, state)), found


async def _results(
    search: StoreSearch, tool: FileSearchTool, asked: list[str], shorter: list[str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """The queries and what they found; shorter ones where the embedding model does not read so much."""
    with contextlib.suppress(QueryTooLong):
        return asked, await search.results(tool, asked)
    try:
        return shorter, await search.results(tool, shorter)
    except QueryTooLong:
        raise InvalidRequest(
            f"The embedding model of the vector store can't read the first {_SHORT_QUERY} characters of this question. "
            "Ask a shorter one.",
            param="messages",
            code="context_length_exceeded",
        ) from None


def _bounded(whole: ModelRequest, plain: ModelRequest, context: int) -> ModelRequest:
    """The request for its limits: passages that do not fit into the context are left out later, and not charged."""
    if whole.max_prompt_tokens <= context:
        return whole
    return whole.replace(max_prompt_tokens=max(plain.max_prompt_tokens, context), prompt_unbounded=True)


class FileSearch:
    """One search of a request, and the passages that its engine gets.

    `request`: without the tool, and without passages. `held_bytes`: what it holds of the body, and of documents.
    """

    def __init__(
        self,
        gateway: Gateway,
        request: ModelRequest,
        tool: FileSearchTool,
        asked: Sequence[str],
        found: Sequence[Passage],
    ) -> None:
        self._gateway = gateway
        self._request = request.replace(body=b"")
        self._rest = without_member(request.body, "messages")
        self._messages = orjson.dumps(orjson.loads(request.body)["messages"])
        self._include_results = tool.include_results
        self._queries = list(asked)
        self._found = list(found)
        self._used: list[Passage] = []
        self._key = new_key()
        self._id = f"fs_{secrets.token_hex(12)}"
        self.held_bytes = len(request.body) + sum(len(each.text) for each in found)

    def whole_request(self) -> ModelRequest:
        """The request with every passage: the most that its engine can receive."""
        body = self._body(self._found)
        return self._request.replace(body=body, max_prompt_tokens=len(body))

    async def engine_body(self, model_id: str, state: ModelState, endpoint: str) -> bytes:
        """The body for an engine, with the passages that fit into the model's context."""
        context = await self._gateway.context_length(model_id, state)
        maximum, request = self._request.max_completion_tokens, self._request
        reserve = completion_reserve(None if maximum is None else maximum // request.choice_count, context)
        whole, bound = self._body(self._found), None
        if not request.prompt_unbounded:
            template = await self._gateway.template_tokens(model_id, request.model, state)
            bound = max_prompt_tokens(template, whole, request.tool_count)
        self._used = await fitting(
            self._found, context - reserve, bound, lambda passages: self._count_tokens(endpoint, passages)
        )
        return whole if self._used == self._found else self._body(self._used)

    def annotated(self, send: Send) -> AnnotatedResponse:
        """A `send` that adds the citations to the response."""
        return AnnotatedResponse(send, lambda: Citations(self._used), self._call)

    def release(self) -> None:
        """Drop what it holds of the request's body; the engine has it."""
        self._rest = self._messages = b""

    def _with_passages(self, passages: Sequence[Passage]) -> bytes:
        messages = with_passages(orjson.loads(self._messages), passages, self._key, found=len(self._found))
        return b'"messages":' + orjson.dumps(messages)

    def _body(self, passages: Sequence[Passage]) -> bytes:
        return with_member(self._rest, "messages", self._with_passages(passages), replacing=False)

    async def _count_tokens(self, endpoint: str, passages: Sequence[Passage]) -> int | None:
        """The tokens of the prompt with these passages, by the engine's `/tokenize`; None: it does not tell."""
        fields = orjson.loads(self._rest)
        rest = orjson.dumps({name: fields[name] for name in fields if name in _TEMPLATE_FIELDS})
        body = with_member(rest, "messages", self._with_passages(passages), replacing=False)
        client = self._gateway.engine_client
        try:
            async with asyncio.timeout(_TOKENIZE_SECONDS):
                response = await client.request(
                    endpoint, "POST", "/tokenize", headers=[_JSON], body=body, idempotent=True
                )
                limit = _TOKENIZED_BYTES_PER_BYTE * len(body) + _MAX_MORE_BYTES
                found = _TOKEN_COUNT.search(await response.read(limit))
        except (ConnectionFailed, ResponseFailed, TimeoutError):
            return None
        # Its tokens are not parsed: millions of numbers would take far more memory than the response.
        return int(found[1]) if found is not None and response.status == 200 else None

    def _call(self) -> dict[str, Any]:
        """OpenAI's object of the call, with the numbers of passages that were found and that the model got."""
        reason = None
        if len(self._used) < len(self._found):
            reason = "context_length"
        elif not self._found:
            reason = "no_results"
        return {
            "id": self._id,
            "type": "file_search_call",
            "status": "completed",
            "incomplete_details": None if reason is None else {"reason": reason},
            "queries": self._queries,
            "found": len(self._found),
            "used": len(self._used),
            "results": [self._result(each) for each in self._found] if self._include_results else None,
        }

    def _result(self, passage: Passage) -> dict[str, Any]:
        """OpenAI's result; `citation`: the number by which the model cites it, None: the model did not get it."""
        number = next((number for number, each in enumerate(self._used, 1) if each is passage), None)
        result = passage.result
        return {
            **{name: result.get(name) for name in ("vector_store_id", "file_id", "filename", "score", "attributes")},
            "text": passage.text,
            "page": passage.page,
            "citation": number,
        }
