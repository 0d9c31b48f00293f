"""Engine plugin: reports the usage of requests whose response the sender does not receive.

An engine reports usage in its response only, so the usage of a request whose caller disconnected would be unknown. This
plugin records vLLM's own counts when a request ends or is aborted; `GET /llmariner/usage/<request id>` returns them, where
the id is the `x-request-id` of the request. Loaded by `--middleware request_usage.RequestUsage`; standard library and
vLLM only. It uses private names of vLLM: if one is missing the route answers 501, and everything else works.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import re
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

_PATH = "/llmariner/usage/"
_MAX_REQUESTS = 4096
# The sender queries right after it disconnected, and the engine notices the disconnect a moment later.
_WAIT_SECONDS = 2.0
# vLLM's request ids: chatcmpl-<id>, cmpl-<id>-<prompt>, embd-<id>-<input>.
_ENGINE_REQUEST_ID = re.compile(r"-(req_[0-9a-f]+)(?:-\d+)?$")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class RequestTokens:
    """The tokens of one request: each prompt counts once for all its choices, each choice once."""

    def __init__(self) -> None:
        self._prompts: dict[str, tuple[int, int]] = {}
        self._answers: dict[str, int] = {}

    def add(self, state: Any) -> None:
        """Count one of vLLM's request states, of which there is one per choice, with the id of its prompt.

        A prompt counts in full once the engine has it: only vLLM's core knows how much was computed at a disconnect, and
        counting nothing would allow free computation of long prompts.
        """
        self._prompts.setdefault(state.external_req_id, (state.prompt_len, state.num_cached_tokens))
        if state.detokenizer is not None:
            self._answers[state.request_id] = state.detokenizer.num_output_tokens()

    def counts(self) -> dict[str, int]:
        """The sums under OpenAI's names."""
        return {
            "prompt_tokens": sum(tokens for tokens, _ in self._prompts.values()),
            "completion_tokens": sum(self._answers.values()),
            "cached_tokens": sum(cached for _, cached in self._prompts.values()),
        }


class UsageLog:
    """Tokens of finished requests by request id; the oldest are dropped."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, RequestTokens] = OrderedDict()
        self._waiters: dict[str, asyncio.Event] = {}
        self._running_states: dict[str, Any] = {}

    def record(self, state: Any, running: dict[str, Any]) -> None:
        """Add one of vLLM's request states to its request. Idempotent. `running`: vLLM's states of running requests."""
        self._running_states = running
        request_id = _request_id(state)
        if request_id is None:
            return
        self._used.setdefault(request_id, RequestTokens()).add(state)
        while len(self._used) > _MAX_REQUESTS:
            self._used.popitem(last=False)
        if request_id in self._waiters and self._complete(request_id):
            self._waiters[request_id].set()

    async def wait(self, request_id: str) -> dict[str, int] | None:
        """The tokens of a request once all its states have ended; None if it is unknown or still running."""
        if not self._complete(request_id):
            event = self._waiters.setdefault(request_id, asyncio.Event())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), _WAIT_SECONDS)
            self._waiters.pop(request_id, None)
        return self._used.pop(request_id).counts() if self._complete(request_id) else None

    def is_running(self, request_id: str) -> bool:
        """Whether a state of the request is still running."""
        return any(_request_id(state) == request_id for state in self._running_states.values())

    def _complete(self, request_id: str) -> bool:
        return request_id in self._used and not self.is_running(request_id)


def _request_id(state: Any) -> str | None:
    named = _ENGINE_REQUEST_ID.search(state.external_req_id)
    return named[1] if named else None


def _instrument(usage_log: UsageLog) -> None:
    processor = importlib.import_module("vllm.v1.engine.output_processor").OutputProcessor
    abort, finish = processor.abort_requests, processor._finish_request

    def abort_and_record(self: Any, request_ids: Iterable[str], internal: bool) -> Any:
        before = dict(self.request_states)
        done = abort(self, request_ids, internal)
        for key in before.keys() - self.request_states.keys():
            usage_log.record(before[key], self.request_states)
        return done

    def finish_and_record(self: Any, state: Any) -> None:
        finish(self, state)
        usage_log.record(state, self.request_states)

    processor.abort_requests, processor._finish_request = abort_and_record, finish_and_record


class RequestUsage:
    """ASGI middleware around vLLM's application."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._usage_log = UsageLog()
        self._missing = ""
        try:
            _instrument(self._usage_log)
        except (ImportError, AttributeError) as error:
            self._missing = f"this vLLM has no {error}"
            print(f"usage of aborted requests is not reported: {self._missing}", file=sys.stderr, flush=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the usage route; pass everything else on."""
        if scope["type"] != "http" or not scope["path"].startswith(_PATH):
            await self._app(scope, receive, send)
            return
        if self._missing:
            await _send_json(send, 501, {"error": {"message": self._missing}})
            return
        request_id = scope["path"].removeprefix(_PATH)
        used = await self._usage_log.wait(request_id)
        if used is None and self._usage_log.is_running(request_id):
            await _send_json(send, 503, {"error": {"message": "this request is still running"}})
        elif used is None:
            await _send_json(send, 404, {"error": {"message": "no request of this id ended here"}})
        else:
            await _send_json(send, 200, used)


async def _send_json(send: Send, status: int, value: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})
