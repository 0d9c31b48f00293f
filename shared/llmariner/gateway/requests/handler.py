"""The handler of one model request: authentication, parsing, limits, admission, relay to an engine, and metering."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from llmariner.errors import BodyTooLarge, EngineFailed, PlatformError, Unavailable, WaitingRoomFull
from llmariner.gateway.admission.model_checks import check_model_access
from llmariner.gateway.admission.queue import AdmissionQueue, Waiter
from llmariner.gateway.control_plane.port import Key, ModelState
from llmariner.gateway.control_plane.retries import when_reachable
from llmariner.gateway.limits.applicable_limits import Reservation
from llmariner.gateway.limits.budget_reservation import reserve_budget
from llmariner.gateway.metering.meter import MeteredRequest
from llmariner.gateway.metering.pricing import Price
from llmariner.gateway.metering.settlement import settle
from llmariner.gateway.metering.token_counts import TokenBounds
from llmariner.gateway.requests.fields import Route
from llmariner.gateway.requests.max_wait import max_wait
from llmariner.gateway.requests.parser import ModelRequest, parse, with_model
from llmariner.gateway.responses import server_sent_events as sse
from llmariner.gateway.responses.client_response import ClientResponse
from llmariner.gateway.responses.engine_errors import engine_error
from llmariner.gateway.responses.heartbeat import Heartbeat
from llmariner.gateway.responses.messages import (
    ClientDisconnected,
    DirectResponse,
    Receive,
    Scope,
    Send,
    current_task,
    fields_by_name,
)
from llmariner.gateway.responses.stream_relay import StreamRelay
from llmariner.gateway.state import Gateway, model_not_ready
from llmariner.http_client import (
    ConnectionFailed,
    ReaderTimeout,
    Response,
    ResponseFailed,
    ResponseTimeout,
    ResponseTooLarge,
)

if TYPE_CHECKING:
    from llmariner.file_search.chat import FileSearch

__all__ = ["RequestHandler"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MAX_ATTEMPTS: Final = 2
# How long the health check of an engine that closed a connection may take.
_HEALTH_CHECK_SECONDS = 1.0
# A larger body is freed once the engine responds: the parsed request keeps no reference to it.
_LARGE_BODY: Final = 64 * 1024
# Smaller responses are not counted in the budget of response bytes.
_LARGE_RESPONSE: Final = 256 * 1024
_MAX_ERROR_BYTES: Final = 1024 * 1024
_JSON_OBJECT_START: Final = re.compile(rb"\s*\{")
_JSON: Final = (b"content-type", b"application/json")


class RequestHandler:
    """Handles one request. `run` raises nothing but CancelledError, when the server shuts down."""

    # Initial values, here rather than in `__init__`: most of these never change during a request.
    _client_disconnected = False
    _response_abandoned = False
    """Whether a response was closed before its end, so that its usage must be read from the engine."""
    _body_bytes_held = 0
    _response_bytes_held = 0
    _status = 0
    _tenant = ""
    _model = ""
    _body = b""
    _endpoint: str | None = None
    _engine_replica: str | None = None
    _file_search: FileSearch | None = None

    def __init__(self, gateway: Gateway, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        self._gateway = gateway
        self._route = route
        self._scope = scope
        self._receive = receive
        self._response = ClientResponse(scope, send, gateway.settings.write_timeout)

    async def run(self) -> None:
        """Handle the request and send its response."""
        gateway, route = self._gateway, self._route
        failure: PlatformError | None = None
        try:
            if not gateway.is_fresh():
                await gateway.refresh()
            request_headers = fields_by_name(self._scope)
            # Cached decisions need no coroutine: three of them would cost a twentieth of the whole request.
            key = gateway.key_cache.cached(request_headers, route.scope)
            if key is None:
                client_address, untrusted_proxy = gateway.client_ips.resolve_behind_proxy(self._scope, request_headers)
                authenticate = partial(gateway.key_cache.authenticate, untrusted_proxy=untrusted_proxy)
                wait = max_wait(gateway.settings, request_headers.get(b"prefer"), stream=False)
                key = await self._when_reachable(
                    partial(authenticate, request_headers, route.scope, client_address), wait
                )
            if key.allowed_networks is not None:
                gateway.client_ips.check_allowed(key.allowed_networks, self._scope, request_headers)
            self._response.set_organization(key.organization_id)
            self._tenant = key.project_id
            body = self._response.body_at_hand(self._receive)
            if body is None:
                body = await self._read_body(request_headers)
            elif body:
                self._reserve_body_bytes(len(body), gateway.settings.body_limit)
            request = parse(route, request_headers.get(b"content-type", b""), body)
            if (target := key.aliases.get(request.model)) is not None:
                request = with_model(request, target)
            wait = max_wait(gateway.settings, request_headers.get(b"prefer"), stream=request.stream)
            if request.file_search:
                request = await self._search_files(key, request, request_headers, wait)
            self._body, self._model = request.body, gateway.registry_id(key, request.model)
            if len(request.body) > _LARGE_BODY:
                request = request.replace(body=b"")
            prompt, completion, choices = request.max_prompt_tokens, request.max_completion_tokens, request.choice_count
            reservation = gateway.limiter.try_reserve(key, request.model, prompt, completion, choices)
            if reservation is None:
                reserve = partial(gateway.limiter.reserve, key, request.model, prompt, completion, choices)
                reservation = await self._when_reachable(reserve, wait)
            await self._handle(key, request, reservation, wait)
        except PlatformError as error:
            failure = error.with_traceback(None)  # a traceback would refer to this frame, and the frame to it
        except ClientDisconnected:
            pass
        except Exception:
            _log.exception("request %s failed", self._response.request_id)
            failure = PlatformError("Something broke on our side. Try again; the request id helps to find it.")
        finally:
            self._release_body()
            if self._response_bytes_held:
                self._gateway.response_budget.release(self._tenant, self._response_bytes_held)
        if failure is not None:
            await self._response.fail(failure)

    def _when_reachable(self, call: Callable[[], Awaitable[T]], wait: float) -> Awaitable[T]:
        """What `call` returns, as soon as the control plane is reachable, or a stream's model would send heartbeats."""
        deadline = self._response.started_at + min(wait, self._gateway.settings.wait_budget)
        return when_reachable(call, deadline, self._is_unwanted)

    def _is_unwanted(self) -> bool:
        """Whether the client has disconnected, as far as the server tells that without being asked for a message."""
        direct: DirectResponse | None = self._scope.get("extensions", {}).get("llmariner.response")
        return direct is not None and direct.disconnected

    async def _handle(self, key: Key, request: ModelRequest, reservation: Reservation, wait: float) -> None:
        """Serve a request within its limits, record its usage, and settle its reservation."""
        try:
            self._response.limit_lines = reservation.applicable.header_lines()
            state = self._gateway.ready_state(self._model)
            if state is None:
                state = await self._when_reachable(partial(self._gateway.state, self._model), wait)
            check_model_access(state, key, self._route)
            if state.base_model is not None:
                await self._gateway.limiter.reserve_for_base_model(
                    reservation,
                    key,
                    request.model,
                    state.base_model,
                    request.max_prompt_tokens,
                    request.max_completion_tokens,
                    request.choice_count,
                )
                self._response.limit_lines = reservation.applicable.header_lines()
            if reservation.applicable.budgets:
                await reserve_budget(self._gateway, self._route, reservation, request, self._body, self._model, state)
        except BaseException:
            reservation.settle(0, 0)
            raise
        bounds = TokenBounds.from_request(request, self._gateway.cached_context_length(self._model))
        metered = self._gateway.meter.open(self._response.request_id, key, request.model, self._route.name, bounds)
        metered.adapter, metered.base_model = state.adapter, state.base_model
        metered.model_project_id, metered.base_project_id = state.project_id, state.base_project_id
        outcome = "failed"
        task = current_task(self._response.direct)
        stop_watching = self._watch_disconnect(task)
        try:
            await self._dispatch(request, state, key, metered, reservation, wait)
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
            if stop_watching is not None:
                stop_watching()
            self._settle(metered, outcome, reservation, state.price)

    def _settle(self, metered: MeteredRequest, outcome: str, reservation: Reservation, price: Price | None) -> None:
        """Record the usage and settle the reservation, once the usage is known."""
        gateway, request_id, status = self._gateway, self._response.request_id, self._status
        if (self._client_disconnected or self._response_abandoned) and self._endpoint is not None:
            on_usage = partial(settle, gateway, request_id, metered, outcome, status, reservation, price)
            gateway.usage_reconciliation.reconcile(metered, request_id, self._endpoint, on_usage)
        else:
            settle(gateway, request_id, metered, outcome, status, reservation, price)

    def _watch_disconnect(self, task: asyncio.Task[None]) -> Callable[[], object] | None:
        """Cancel the task when the client disconnects; returns a function that stops this, if something must."""
        direct = self._response.direct
        if direct is not None:
            direct.add_disconnect_callback(partial(self._on_disconnect, task))
            return None
        # Without the extension, wait for the `http.disconnect` message.
        watcher = asyncio.ensure_future(self._receive())
        watcher.add_done_callback(lambda done: None if done.cancelled() else self._on_disconnect(task))
        return watcher.cancel

    def _on_disconnect(self, task: asyncio.Task[None]) -> None:
        if not task.done() and self._status == 0:
            self._client_disconnected = True
            task.cancel()

    async def _read_body(self, request_headers: dict[bytes, bytes]) -> bytes:
        """Read the body and reserve its bytes. Raises BodyTooLarge and WaitingRoomFull."""
        limit = self._gateway.settings.body_limit
        length = request_headers.get(b"content-length", b"0")
        if length.isdigit():
            self._reserve_body_bytes(int(length), limit)
        message = await self._receive()
        body: bytes = message.get("body", b"")
        if len(body) > self._body_bytes_held:  # chunked or compressed: its length was not declared
            self._reserve_body_bytes(len(body), limit)
        if not message.get("more_body"):
            return body
        received = bytearray(body)  # a list of two-byte parts would take many times the memory
        while message.get("more_body"):
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            received += message.get("body", b"")
            if len(received) > self._body_bytes_held:
                self._reserve_body_bytes(len(received), limit)
        return bytes(received)

    def _reserve_body_bytes(self, size: int, limit: int) -> None:
        if size > limit:
            raise BodyTooLarge(f"The body is over the limit of {limit} bytes.")
        self._gateway.body_budget.reserve(self._tenant, size - self._body_bytes_held)
        self._body_bytes_held = size

    def _reserve_response_bytes(self, size: int) -> None:
        """Reserve the bytes of a large response. Unavailable when this instance holds too many already."""
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

    async def _search_files(
        self, key: Key, request: ModelRequest, request_headers: dict[bytes, bytes], wait: float
    ) -> ModelRequest:
        """The request without the tool `file_search`, with the passages that it found; the response gets citations."""
        from llmariner.file_search.chat import search_files

        gateway = self._gateway
        response = self._response
        response.direct = None  # the response passes through ASGI's `send`
        client = gateway.client_ips.resolve_behind_proxy(self._scope, request_headers)
        task = current_task(self._response.direct)
        stop_watching = self._watch_disconnect(task)
        try:
            request, search = await search_files(gateway, self._route, key, request, request_headers, client, wait)
        except asyncio.CancelledError:
            if not self._client_disconnected:
                raise
            task.uncancel()
            raise ClientDisconnected from None
        finally:
            if stop_watching is not None:
                stop_watching()
        if search is not None:
            self._file_search = search
            response.wrap(search.annotated)
            size = len(request.body) + search.held_bytes
            self._reserve_body_bytes(size, size)
        return request

    def _release_body(self) -> None:
        """Drop the body and return its bytes to the budget. Idempotent."""
        self._body = b""
        if self._body_bytes_held:
            if self._file_search is not None:
                self._file_search.release()
            self._gateway.body_budget.release(self._tenant, self._body_bytes_held)
            self._body_bytes_held = 0

    async def _dispatch(
        self,
        request: ModelRequest,
        state: ModelState,
        key: Key,
        metered: MeteredRequest,
        reservation: Reservation,
        wait: float,
    ) -> None:
        """Acquire a slot, send the request to an engine and relay the response; retry once if no byte was relayed."""
        deadline = time.monotonic() + wait
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            queue = self._gateway.queue(self._model)
            if not (state.ready and queue.try_admit(key.project_id)):
                waiter = queue.enqueue(key.project_id, reservation.applicable.queue_share)
                wait_started = time.monotonic()
                try:
                    await self._wait(queue, request, waiter, deadline)
                finally:
                    metered.add_wait(wait_started, queue.ready_at)
            if attempt == 1:
                metered.waited_seconds = time.perf_counter() - self._response.started_at
            try:
                state = self._gateway.ready_state(self._model) or await self._gateway.state(self._model)
                if await self._attempt(request, state, metered, last=attempt == _MAX_ATTEMPTS):
                    return
            finally:
                queue.release_slot(key.project_id)
                if self._engine_replica is not None:
                    self._gateway.engine_replicas.release(self._engine_replica)
                    self._engine_replica = None
            self._gateway.invalidate(self._model)
            state = await self._gateway.state(self._model)

    async def _attempt(self, request: ModelRequest, state: ModelState, metered: MeteredRequest, *, last: bool) -> bool:
        """Try one engine; False when the request may be retried."""
        if state.endpoint is None:
            if last:
                raise model_not_ready(state, "The model went to sleep as it was asked")
            return False
        endpoint = state.endpoint
        if state.replica_endpoints:
            endpoint = self._engine_replica = self._gateway.engine_replicas.acquire(state.replica_endpoints)
        self._endpoint = endpoint
        if self._file_search is not None:
            self._body = await self._file_search.engine_body(self._model, state, endpoint)
        response: Response | None = None
        try:
            response = await self._send_to_engine(endpoint, request)
        except ResponseTimeout as timeout:
            self._gateway.engine_replicas.mark_unresponsive(endpoint)
            raise EngineFailed("The engine took the request and sent nothing. See `llma logs`.") from timeout
        except ConnectionFailed as lost:
            if last:
                raise EngineFailed("The engine twice closed the connection unanswered. See `llma logs`.") from lost
        if response is None:
            # A healthy engine has closed an idle connection just as it was used.
            if not await self._gateway.is_healthy(endpoint, seconds=_HEALTH_CHECK_SECONDS):
                await self._gateway.report_unreachable(self._model, endpoint)
            return False
        try:
            if response.status >= 500 and not last and not await self._gateway.is_healthy(endpoint):
                await self._gateway.report_unreachable(self._model, endpoint)
                return False
            await self._relay(response, request, metered)
        except ResponseTooLarge as oversize:
            self._response_abandoned = 200 <= response.status < 300
            raise EngineFailed(f"The engine's answer is too large: {oversize}. Ask for less at once.") from oversize
        except ResponseFailed as broken:
            if not last and not self._response.stream_started:
                return False
            raise EngineFailed("The engine broke off in the middle of its answer. Try again.") from broken
        except ReaderTimeout as unread:
            raise ClientDisconnected from unread
        finally:
            response.close()
        return True

    def _send_to_engine(self, endpoint: str, request: ModelRequest) -> Awaitable[Response]:
        settings = self._gateway.settings
        return self._gateway.engine_client.request(
            endpoint,
            "POST",
            self._route.engine_path,
            headers=[_JSON, (b"x-request-id", self._response.request_id.encode())],
            body=self._body,
            read_timeout=settings.stream_idle_timeout if request.stream else settings.engine_timeout,
        )

    async def _wait(self, queue: AdmissionQueue, request: ModelRequest, waiter: Waiter, deadline: float) -> None:
        """Wait in the queue until admitted. ModelNotReady when the deadline passes first."""
        heartbeat = Heartbeat(self._gateway.settings.heartbeat) if request.stream else None
        admitted = False
        try:
            self._gateway.ensure_wake_loop(self._model)
            while not waiter.admitted.done():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise model_not_ready(
                        self._gateway.cached_state(self._model), "The model was not ready within the wait"
                    )
                if heartbeat is not None:
                    await self._response.start_stream()
                    status = self._gateway.waiting_status(self._model)
                    if heartbeat.due(str(status["phase"])):
                        await self._response.send_part(sse.format_comment(status))
                await asyncio.wait(
                    {waiter.admitted}, timeout=min(remaining, heartbeat.poll_interval if heartbeat else remaining)
                )
            waiter.admitted.result()
            admitted = True
        finally:
            if not admitted:
                queue.cancel(waiter)

    async def _relay(self, response: Response, request: ModelRequest, metered: MeteredRequest) -> None:
        if response.status != 200:  # any other 2xx is unexpected, and 204 and 205 allow no body
            raise engine_error(response.status, await response.read(_MAX_ERROR_BYTES), request.model)
        if request.stream:
            await self._relay_stream(response, request, metered)
            return
        body = response.whole()
        if body is None:
            body = await response.read(on_progress=self._reserve_response_bytes)
        else:
            self._reserve_response_bytes(len(body))
        if not body.startswith(b"{") and _JSON_OBJECT_START.match(body) is None:
            raise EngineFailed("The engine's answer is no JSON object. Try again, and see `llma logs` if it recurs.")
        usage_start = body.rfind(b'"usage":')
        metered.usage = body[usage_start:] if usage_start >= 0 else b""
        self._status = response.status
        drained = self._response.respond(body)
        if drained is not None:
            await drained

    async def _relay_stream(self, response: Response, request: ModelRequest, metered: MeteredRequest) -> None:
        self._release_body()
        await self._response.start_stream()
        stream = StreamRelay(request, metered, self._response.started_at)
        direct = self._response.direct
        if direct is not None:
            await response.pipe(partial(self._relay_chunk, response, stream, direct))
        else:
            while chunk := await response.chunk():
                visible = stream.feed(chunk)
                if stream.done:
                    self._finish_stream(response)
                if visible:
                    await self._response.send_part(visible)
        if not stream.done:
            raise ResponseFailed("the stream ended without [DONE]")
        self._status = 200
        await self._response.end_stream()

    def _relay_chunk(
        self, response: Response, stream: StreamRelay, direct: DirectResponse, chunk: bytes
    ) -> asyncio.Future[None] | None:
        visible = stream.feed(chunk)
        if stream.done:
            self._finish_stream(response)
        return direct.write(visible) if visible else None

    def _finish_stream(self, response: Response) -> None:
        """After [DONE] a disconnect is no cancellation, and the rest of the engine's response is discarded."""
        self._status = 200
        response.discard_rest()
