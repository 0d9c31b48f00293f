"""One request on the token path, from its head to the last byte of its answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable
from functools import partial
from typing import cast

from llmariner.errors import BodyTooLarge, EngineFailed, InvalidRequest, PlatformError, Unavailable, WaitingRoomFull
from llmariner.gateway.admission.chat_template import max_prompt_tokens
from llmariner.gateway.admission.model_checks import check_model_access
from llmariner.gateway.admission.queue import AdmissionQueue, Waiter
from llmariner.gateway.control_plane.port import Key, ModelState
from llmariner.gateway.limits.applicable_limits import Reservation, longest_cost
from llmariner.gateway.metering.meter import Metered
from llmariner.gateway.metering.pricing import Price
from llmariner.gateway.metering.token_counts import Bounds
from llmariner.gateway.requests.fields import Route
from llmariner.gateway.requests.parser import ModelRequest, parse
from llmariner.gateway.requests.request_ids import new_request_id
from llmariner.gateway.responses import server_sent_events as sse
from llmariner.gateway.responses.engine_errors import engine_error
from llmariner.gateway.responses.heartbeat import Heartbeat
from llmariner.gateway.responses.messages import Message, Receive, Scope, Send, send_error, send_head, send_json
from llmariner.gateway.responses.stream_relay import StreamRelay
from llmariner.gateway.state import Gateway, not_ready
from llmariner.http_client import (
    ConnectionFailed,
    ReaderTimeout,
    Response,
    ResponseFailed,
    ResponseTimeout,
    ResponseTooLarge,
)

__all__ = ["RequestHandler"]

_log = logging.getLogger(__name__)
_MAX_ATTEMPTS = 2
# How long an engine that hung up may take to say that it is well.
_HEALTH_CHECK_SECONDS = 1.0
# Of larger bodies no copy is kept once the engine answers.
_LARGE_BODY = 64 * 1024
# Smaller answers are not accounted for one by one.
_LARGE_RESPONSE = 256 * 1024
_MAX_ERROR_BYTES = 1024 * 1024
_OBJECT = re.compile(rb"\s*\{")
Write = Callable[[bytes], "asyncio.Future[None] | None"]
_JSON = [(b"content-type", b"application/json")]


class ClientDisconnected(Exception):
    """The caller hung up, or takes nothing any more; nobody is left to be told anything."""


class RequestHandler:
    """A request and its answer. `run` never raises but for the server's own cancellation."""

    def __init__(self, gateway: Gateway, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        self._gateway = gateway
        self._route = route
        self._scope = scope
        self._receive = receive
        self._write: Write | None = scope.get("extensions", {}).get("llmariner.write")
        # A server with that extension looks after slow readers itself.
        self._send = send if self._write is not None else self._send_with_timeout
        self._plain_send = send
        self._started_at = time.perf_counter()
        self._request_id = new_request_id()
        self._headers = [(b"x-request-id", self._request_id.encode()), (b"openai-version", b"2020-10-01")]
        self._stream_started = False
        self._response_sent = False
        self._tenant = ""
        self._body_bytes_held = self._response_bytes_held = 0
        self._body = b""
        self._model = ""
        self._client_disconnected = False
        # Whether we left an answer that the engine had begun, so that it is to be asked what that took.
        self._response_abandoned = False
        self._status = 0
        self._endpoint: str | None = None
        self._replica: str | None = None

    async def run(self) -> None:
        """Answer the request."""
        gateway, route = self._gateway, self._route
        try:
            if not gateway.fresh():
                await gateway.refresh()
            head = dict(self._scope["headers"])
            # What is known is decided without a coroutine: three of them would cost a twentieth of the whole request.
            key = gateway.key_cache.cached(head, route.scope)
            if key is None:
                client_address, untrusted_proxy = gateway.client_ips.resolve_behind_proxy(self._scope, head)
                key = await gateway.key_cache.authenticate(
                    head, route.scope, client_address, untrusted_proxy=untrusted_proxy
                )
            if key.sources is not None:
                gateway.client_ips.check_allowed(key.sources, self._scope, head)
            self._headers.append((b"openai-organization", key.organization_id.encode()))
            self._tenant = key.project_id
            request = parse(route, head.get(b"content-type", b""), await self._read_body(head))
            self._body, self._model = request.body, gateway.registered(key, request.model)
            if len(request.body) > _LARGE_BODY:
                request = request._replace(body=b"")
            wait = self._max_wait(head.get(b"prefer"), stream=request.stream)
            asked = (key, request.model, request.max_prompt_tokens, request.max_completion_tokens, request.choice_count)
            reserved = gateway.limits.reserve(*asked)
            if reserved is None:
                reserved = await gateway.limits.admit(*asked)
            await self._handle(key, request, reserved, wait)
        except PlatformError as error:
            await self._fail(error)
        except ClientDisconnected:
            pass
        except Exception:
            _log.exception("request %s failed", self._request_id)
            await self._fail(PlatformError("Something broke on our side. Try again; the request id helps to find it."))
        finally:
            self._release_body()
            if self._response_bytes_held:
                self._gateway.response_budget.release(self._tenant, self._response_bytes_held)

    async def _handle(self, key: Key, request: ModelRequest, reserved: Reservation, wait: float) -> None:
        """Serve a request that the limits let through, count it, and settle what it had reserved."""
        try:
            told = len(self._headers)
            self._headers += reserved.bound.headers()
            state = self._gateway.ready_state(self._model) or await self._gateway.state(self._model)
            check_model_access(state, key, self._route)
            if state.base is not None:
                asked = (
                    request.model,
                    state.base,
                    request.max_prompt_tokens,
                    request.max_completion_tokens,
                    request.choice_count,
                )
                await self._gateway.limits.count_for_base(reserved, key, *asked)
                self._headers[told:] = reserved.bound.headers()
            if reserved.bound.budgets:
                await self._reserve_budget(reserved, request, state)
        except BaseException:
            reserved.settle(0, 0)
            raise
        bounds = Bounds.of(request, self._gateway.known_context(self._model))
        metered = self._gateway.meter.admit(self._request_id, key, request.model, self._route.name, bounds)
        metered.adapter, metered.base_model = state.adapter, state.base
        metered.model_project_id, metered.base_project_id = state.project_id, state.base_project_id
        outcome = "failed"
        task = cast(asyncio.Task[None], asyncio.current_task())
        stop_watching = self._watch_disconnect(task)
        try:
            await self._dispatch(request, state, key, metered, reserved, wait)
            outcome = "succeeded" if self._status < 400 else "rejected"
        except PlatformError as error:
            self._status = error.status
            outcome = "rejected" if error.status < 500 else "failed"
            raise
        except asyncio.CancelledError:
            outcome, self._status = "cancelled", 499
            if not self._client_disconnected:
                raise  # the server is shutting down
            task.uncancel()
            raise ClientDisconnected from None
        except ClientDisconnected:
            outcome, self._status, self._client_disconnected = "cancelled", 499, True
            raise
        finally:
            stop_watching()
            if (self._client_disconnected or self._response_abandoned) and self._endpoint is not None:
                close = partial(self._settle, metered, outcome, reserved, state.price)
                self._gateway.settlement.reconcile(metered, self._request_id, self._endpoint, close)
            else:
                self._settle(metered, outcome, reserved, state.price)

    async def _reserve_budget(self, reserved: Reservation, request: ModelRequest, state: ModelState) -> None:
        """Take what the longest answer can cost from the budgets."""
        if state.price is None:
            return
        prompt, answer = await self._max_prompt_tokens(request, state), request.max_completion_tokens
        if answer is None or prompt is None or request.tool_count:
            context = await self._gateway.context_length(self._model, state)
            prompts = request.prompt_count * context
            prompt = prompts if prompt is None else min(prompt, prompts)
            answer = request.choice_count * context if answer is None else answer
        money, limits = longest_cost(state.price, prompt, answer), self._gateway.limits
        if money and not limits.take_money(reserved, money):
            await limits.fund(reserved, money)

    async def _max_prompt_tokens(self, request: ModelRequest, state: ModelState) -> int | None:
        """At least as many tokens as its prompts have; None: only the model's context bounds them."""
        if request.prompt_unbounded:
            return None
        if "messages" not in self._route.required:
            return request.max_prompt_tokens  # no template writes it
        gateway = self._gateway
        template = gateway.known_template(self._model) or await gateway.chat_template(self._model, request.model, state)
        return max_prompt_tokens(template, self._body, request.tool_count)

    def _settle(self, metered: Metered, outcome: str, reserved: Reservation, price: Price | None) -> None:
        """Count the request and pay for it. Never raises: the answer is out, or the caller gone."""
        tokens, cost = reserved.tokens, reserved.money
        try:
            event = self._gateway.meter.close(metered, outcome, self._status)
            self._gateway.metrics.closed(event)
            tokens = event["prompt_tokens"] + event["completion_tokens"]
            cost = price.cost(event, outcome).total if price is not None and reserved.bound.budgets else 0
        except Exception:
            _log.exception("what request %s used can't be told: it pays what it had reserved", self._request_id)
        reserved.settle(tokens, cost, metered.admitted_at)

    def _watch_disconnect(self, task: asyncio.Task[None]) -> Callable[[], object]:
        """Cancel the task when the caller hangs up; returns what ends the watch."""
        on_disconnect = self._scope.get("extensions", {}).get("llmariner.on_disconnect")
        if on_disconnect is not None:
            on_disconnect(lambda: self._on_disconnect(task))
            return lambda: None
        # A server without that extension: wait for its message.
        watcher = asyncio.ensure_future(self._receive())
        watcher.add_done_callback(lambda done: None if done.cancelled() else self._on_disconnect(task))
        return watcher.cancel

    def _on_disconnect(self, task: asyncio.Task[None]) -> None:
        if not task.done() and self._status == 0:
            self._client_disconnected = True
            task.cancel()

    async def _read_body(self, head: dict[bytes, bytes]) -> bytes:
        """The body, accounted for as held. BodyTooLarge, WaitingRoomFull."""
        limit = self._gateway.settings.body_limit
        length = head.get(b"content-length", b"0")
        if length.isdigit():
            self._reserve_body_bytes(int(length), limit)
        message = await self._receive()
        body: bytes = message.get("body", b"")
        if len(body) > self._body_bytes_held:  # in chunks or coded: nobody said how long it is
            self._reserve_body_bytes(len(body), limit)
        if not message.get("more_body"):
            return body
        whole = bytearray(body)  # a list would hold many times as much of a body that comes in parts of two bytes
        while message.get("more_body"):
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            whole += message.get("body", b"")
            if len(whole) > self._body_bytes_held:
                self._reserve_body_bytes(len(whole), limit)
        return bytes(whole)

    def _reserve_body_bytes(self, size: int, limit: int) -> None:
        if size > limit:
            raise BodyTooLarge(f"The body is over the limit of {limit} bytes.")
        self._gateway.body_budget.reserve(self._tenant, size - self._body_bytes_held)
        self._body_bytes_held = size

    def _reserve_response_bytes(self, size: int) -> None:
        """Account for an answer that is large. Unavailable when the process holds too much of others already."""
        if size > _LARGE_RESPONSE:
            try:
                self._gateway.response_budget.reserve(self._tenant, size - self._response_bytes_held)
            except WaitingRoomFull as error:
                self._response_abandoned = True
                raise Unavailable(
                    "Too many large answers wait to be delivered here. Try again shortly, or ask for less at once.",
                    headers={"retry-after": "2"},
                ) from error
            self._response_bytes_held = size

    def _release_body(self) -> None:
        """Nobody needs the body any more."""
        self._body = b""
        if self._body_bytes_held:
            self._gateway.body_budget.release(self._tenant, self._body_bytes_held)
            self._body_bytes_held = 0

    def _max_wait(self, prefer: bytes | None, *, stream: bool) -> float:
        """Seconds this request may wait: the caller's `Prefer: wait=N` (RFC 7240), else the platform's."""
        settings = self._gateway.settings
        for part in (prefer or b"").split(b","):
            name, _, value = part.strip().partition(b"=")
            if name.lower() == b"wait":
                if not value.isdigit():
                    raise InvalidRequest("The header 'Prefer: wait=N' takes whole seconds.", param="Prefer")
                return min(float(value), settings.wait_limit)
        return settings.wait_limit if stream else settings.wait_budget

    async def _dispatch(
        self,
        request: ModelRequest,
        state: ModelState,
        key: Key,
        metered: Metered,
        reserved: Reservation,
        wait: float,
    ) -> None:
        """Get a place, send the request to the engine, relay the answer; once more if no byte of an answer came."""
        deadline = time.monotonic() + wait
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            room = self._gateway.room(self._model)
            if not (state.ready and room.try_admit(key.project_id)):
                waiter = room.enqueue(key.project_id, reserved.bound.queue_share)
                began = time.monotonic()
                try:
                    await self._wait(room, request, waiter, deadline)
                finally:
                    metered.waited(began, room.ready_at)
            if attempt == 1:
                metered.waited_seconds = time.perf_counter() - self._started_at
            try:
                state = self._gateway.ready_state(self._model) or await self._gateway.state(self._model)
                if await self._attempt(request, state, metered, last=attempt == _MAX_ATTEMPTS):
                    return
            finally:
                room.release_slot(key.project_id)
                if self._replica is not None:
                    self._gateway.replicas.release(self._replica)
                    self._replica = None
            self._gateway.forget(self._model)
            state = await self._gateway.state(self._model)

    async def _attempt(self, request: ModelRequest, state: ModelState, metered: Metered, *, last: bool) -> bool:
        """One try at an engine; False when another may be made."""
        if state.endpoint is None:
            if last:
                raise not_ready(state, "The model went to sleep as it was asked")
            return False
        endpoint = state.endpoint
        if state.replicas:
            endpoint = self._replica = self._gateway.replicas.acquire(state.replicas)
        self._endpoint = endpoint
        try:
            response = await self._send_to_engine(endpoint, request)
        except ResponseTimeout as error:
            self._gateway.replicas.mark_unresponsive(endpoint)
            raise EngineFailed("The engine took the request and sent nothing. See `llma logs`.") from error
        except ConnectionFailed as error:
            if last:
                raise EngineFailed("The engine hung up before it answered, twice. See `llma logs`.") from error
            # One that is well has closed a connection that was idle, just as it was used.
            if not await self._gateway.is_well(endpoint, seconds=_HEALTH_CHECK_SECONDS):
                await self._gateway.gone(self._model, endpoint)
            return False
        try:
            if response.status >= 500 and not last and not await self._gateway.is_well(endpoint):
                await self._gateway.gone(self._model, endpoint)
                return False
            await self._relay(response, request, metered)
        except ResponseTooLarge as error:
            self._response_abandoned = 200 <= response.status < 300
            raise EngineFailed(f"The engine's answer is too large: {error}. Ask for less at once.") from error
        except ResponseFailed as error:
            if not last and not self._stream_started:
                return False
            raise EngineFailed("The engine broke off in the middle of its answer. Try again.") from error
        except ReaderTimeout as error:
            raise ClientDisconnected from error
        finally:
            response.close()
        return True

    async def _send_to_engine(self, endpoint: str, request: ModelRequest) -> Response:
        settings = self._gateway.settings
        return await self._gateway.client.request(
            endpoint,
            "POST",
            self._route.engine_path,
            headers=[*_JSON, (b"x-request-id", self._request_id.encode())],
            body=self._body,
            read_timeout=settings.stream_idle_timeout if request.stream else settings.engine_timeout,
        )

    async def _wait(self, room: AdmissionQueue, request: ModelRequest, waiter: Waiter, deadline: float) -> None:
        """Wait in the room until admitted. ModelNotReady when the deadline comes first."""
        heartbeat = Heartbeat(self._gateway.settings.heartbeat) if request.stream else None
        admitted = False
        try:
            self._gateway.tend(self._model)
            while not waiter.admitted.done():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise not_ready(self._gateway.known(self._model), "The model was not ready within the wait")
                if heartbeat is not None:
                    await self._start_stream()
                    status = self._wait_status(self._model, room)
                    if heartbeat.due(str(status["phase"])):
                        await self._send_part(sse.format_comment(status))
                await asyncio.wait({waiter.admitted}, timeout=min(left, heartbeat.poll_interval if heartbeat else left))
            waiter.admitted.result()
            admitted = True
        finally:
            if not admitted:
                room.cancel(waiter)

    def _wait_status(self, model_id: str, room: AdmissionQueue) -> dict[str, object]:
        state = self._gateway.known(model_id)
        return {
            "phase": state.phase if state else "unknown",
            "progress": state.progress if state else 0.0,
            "estimate_seconds": state.estimate_seconds if state else None,
            "message": state.message if state else "",
            "waiting": room.waiting,
        }

    async def _relay(self, response: Response, request: ModelRequest, metered: Metered) -> None:
        if response.status != 200:  # no engine has reason for another; behind 204 and 205 nothing may stand
            raise engine_error(response.status, await response.read(_MAX_ERROR_BYTES), request.model)
        if request.stream:
            await self._relay_stream(response, request, metered)
            return
        body = await response.read(on_progress=self._reserve_response_bytes)
        if _OBJECT.match(body) is None:
            raise EngineFailed(
                "The engine's answer is no JSON object. Try again; if it happens again, see `llma logs`."
            )
        at = body.rfind(b'"usage":')
        metered.usage = body[at:] if at >= 0 else b""
        self._status = response.status
        self._response_sent = True
        await send_json(self._send, response.status, body, self._response_headers())

    async def _relay_stream(self, response: Response, request: ModelRequest, metered: Metered) -> None:
        self._release_body()
        await self._start_stream()
        stream = StreamRelay(request, metered, self._started_at)
        write = self._write
        if write is not None:
            await response.pipe(lambda chunk: self._relay_chunk(response, stream, write, chunk))
        else:
            while chunk := await response.chunk():
                visible = stream.feed(chunk)
                if stream.done:
                    self._finish_stream(response)
                if visible:
                    await self._send_part(visible)
        if not stream.done:
            raise ResponseFailed("the stream ended without [DONE]")
        self._status = 200
        self._response_sent = True
        await self._send({"type": "http.response.body", "body": b""})

    def _relay_chunk(
        self, response: Response, stream: StreamRelay, write: Write, chunk: bytes
    ) -> asyncio.Future[None] | None:
        visible = stream.feed(chunk)
        if stream.done:
            self._finish_stream(response)
        return write(visible) if visible else None

    def _finish_stream(self, response: Response) -> None:
        """A caller that leaves after [DONE] has all of it, and has not hung up; an engine that goes on holds nobody."""
        self._status = 200
        response.discard_rest()

    async def _start_stream(self) -> None:
        if not self._stream_started:
            self._stream_started = True
            await send_head(self._send, 200, b"text/event-stream; charset=utf-8", self._response_headers(), None)

    async def _send_with_timeout(self, message: Message) -> None:
        """ClientDisconnected when the server can't hand the message on within the allowed time."""
        try:
            async with asyncio.timeout(self._gateway.settings.write_timeout):
                await self._plain_send(message)
        except TimeoutError:
            raise ClientDisconnected from None

    async def _send_part(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _fail(self, error: PlatformError) -> None:
        """Answer with an error, unless an answer was given: a second one would be taken for the next request's."""
        if self._response_sent:
            return
        self._response_sent = True
        with contextlib.suppress(ClientDisconnected):
            await self._send_error(error)

    async def _send_error(self, error: PlatformError) -> None:
        if self._stream_started:
            await self._send({"type": "http.response.body", "body": sse.format_event(error.body())})
        else:
            await send_error(self._send, error, self._response_headers())

    def _response_headers(self) -> list[tuple[bytes, bytes]]:
        spent = int((time.perf_counter() - self._started_at) * 1000)
        return [*self._headers, (b"openai-processing-ms", b"%d" % spent)]
