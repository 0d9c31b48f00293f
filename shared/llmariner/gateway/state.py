"""The state of a gateway instance that its requests share, and the background tasks that update it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

from llmariner.environment import Secret
from llmariner.errors import ModelNotFound, ModelNotReady, PlatformError, Unavailable
from llmariner.gateway.admission.chat_template import DEFAULT_TEMPLATE_TOKENS, TemplateTokens, fetch_template_tokens
from llmariner.gateway.admission.context_length import DEFAULT_CONTEXT_LENGTH, fetch_context_length
from llmariner.gateway.admission.engine_replicas import EngineReplicas
from llmariner.gateway.admission.queue import AdmissionQueue
from llmariner.gateway.authentication.failed_attempts import FailedAttemptLimiter
from llmariner.gateway.authentication.key_cache import KeyCache
from llmariner.gateway.background_tasks import supervise
from llmariner.gateway.control_plane.port import ControlPlane, Key, ModelState
from llmariner.gateway.engine_tunnel import engine_tunnel
from llmariner.gateway.limits.limiter import Limiter
from llmariner.gateway.metering.meter import Meter
from llmariner.gateway.metering.metrics import Metrics
from llmariner.gateway.metering.usage_reconciliation import UsageReconciliation
from llmariner.gateway.requests.body_budget import BodyBudget
from llmariner.gateway.requests.client_ip import ClientIpResolver
from llmariner.gateway.requests.request_ids import instance_id
from llmariner.gateway.single_flight import SingleFlight
from llmariner.gateway_settings import GatewaySettings
from llmariner.http_client import Client, ConnectionFailed, ResponseFailed

__all__ = ["Gateway", "model_not_ready"]

_log = logging.getLogger(__name__)
_POLL_SECONDS = 2.0
_STALE_SECONDS = 4.0
# How long a request waits for the control plane before the cached state is used. Where the last poll is older than
# _RECENT_POLL_SECONDS, the request waits without that limit: keys may have been revoked in the meantime.
_POLL_TIMEOUT_SECONDS = 1.0
_RECENT_POLL_SECONDS = 20.0
_IDLE_SECONDS = 60.0
_LAST_USED_SECONDS = 30.0
# How long cached keys stay valid while the control plane is unavailable.
_OFFLINE_SECONDS = 600.0
_WAKE_POLL_SECONDS = 0.1
# The interval between reads of a ready model's state while requests wait for it.
_READY_POLL_SECONDS = 0.5
_WAKE_RETRY_SECONDS = 0.5
_UNREACHABLE_SECONDS = 2.0
_MAX_MODELS = 1000
_WAITING_SECONDS = 1.0
_HEALTH_SECONDS = 5.0
_MAX_HEALTH_BYTES = 64 * 1024


class Gateway:
    """The state of a gateway instance.

    Not thread-safe: the first request starts its tasks, in that request's event loop. `service_secret`: signs calls of other
    functions; None: it calls none.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        settings: GatewaySettings,
        pepper: Secret,
        service_secret: Secret | None = None,
    ) -> None:
        self.control_plane = control_plane
        self.settings = settings
        self.service_secret = service_secret
        self.engine_client = Client(
            write_timeout=settings.write_timeout, tunnel=engine_tunnel(settings.functions_url, service_secret)
        )
        self.body_budget = BodyBudget(settings.body_buffer_bytes, settings.body_buffer_bytes_per_tenant)
        self.response_budget = BodyBudget(settings.response_buffer_bytes, settings.response_buffer_bytes * 2 // 3)
        self.key_cache = KeyCache(
            control_plane, pepper.reveal(), FailedAttemptLimiter(settings.unknown_keys_per_minute)
        )
        self.limiter = Limiter(control_plane)
        self.client_ips = ClientIpResolver(settings.trusted_proxies)
        self.metrics = Metrics()
        self.meter = Meter(control_plane, self.metrics)
        self.engine_replicas = EngineReplicas()
        self.usage_reconciliation = UsageReconciliation(self.engine_client)
        self._states: dict[str, ModelState] = {}
        self._queues: dict[str, AdmissionQueue] = {}
        self._context_lengths: dict[str, int] = {}
        self._template_tokens: dict[str, TemplateTokens] = {}
        self._state_flights: SingleFlight[ModelState] = SingleFlight()
        self._template_flights: SingleFlight[TemplateTokens] = SingleFlight()
        self._context_flights: SingleFlight[int] = SingleFlight()
        self._wake_loops: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._cursor = ""
        self._price_version = 0.0
        self._polled_at = self._poll_attempted_at = float("-inf")
        self._poll_lock = asyncio.Lock()
        self._last_request_at = 0.0

    def is_fresh(self) -> bool:
        """Whether the cached state may be used; if not, call `refresh`. Every request calls this first."""
        self._last_request_at = now = time.monotonic()
        return now - self._poll_attempted_at <= _STALE_SECONDS

    async def refresh(self) -> None:
        """Start the background tasks, once, and poll for changes. Does not raise when the control plane is unavailable."""
        if not self._tasks:
            tasks = (self.meter.run, self.limiter.run, self._poll_loop, self._report_waiting)
            self._tasks = [asyncio.create_task(supervise(each)) for each in tasks]
        polled_recently = time.monotonic() - self._poll_attempted_at <= _RECENT_POLL_SECONDS
        try:
            async with asyncio.timeout(_POLL_TIMEOUT_SECONDS if polled_recently else None), self._poll_lock:
                if not self.is_fresh():
                    await self._poll_changes()
        except TimeoutError:
            self._poll_attempted_at = time.monotonic()  # the next requests do not wait

    @staticmethod
    def registry_id(key: Key, name: str) -> str:
        """Return the registry's id of the model that a caller refers to by name. Raises ModelNotFound."""
        if name in key.own_models:
            return f"{name}@{key.project_id}"
        if "@" in name:
            raise ModelNotFound(name)  # names do not contain it
        return name

    def ready_state(self, model_id: str) -> ModelState | None:
        """The cached state of a model, if it is ready."""
        state = self._states.get(model_id)
        return state if state is not None and state.endpoint is not None else None

    async def state(self, model_id: str) -> ModelState:
        """The state of a model: cached while it is ready, else fetched. Raises ModelNotFound or Unavailable."""
        state = self._states.get(model_id)
        return state if state is not None and state.ready else await self._fetch_state_once(model_id)

    async def context_length(self, model_id: str, state: ModelState) -> int:
        """The maximum number of tokens of prompt and completion together, as the engine reports it."""
        length = self._context_lengths.get(model_id)
        if length is None and (endpoint := state.endpoint) is not None:
            generation = self._context_flights.generation
            length = await self._context_flights.do(
                model_id, lambda: fetch_context_length(self.engine_client, endpoint, state.id)
            )
            if generation == self._context_flights.generation:
                self._context_lengths[model_id] = length
        return length or DEFAULT_CONTEXT_LENGTH

    def cached_context_length(self, model_id: str) -> int | None:
        """The cached context length of a model."""
        return self._context_lengths.get(model_id)

    def cached_template_tokens(self, model_id: str) -> TemplateTokens | None:
        """The cached token counts of a model's chat template."""
        return self._template_tokens.get(model_id)

    async def template_tokens(self, model_id: str, engine_model_name: str, state: ModelState) -> TemplateTokens:
        """The token counts of a model's chat template, measured if needed.

        `engine_model_name`: the model's name in its engine.
        """
        if (endpoint := state.endpoint) is None:
            return DEFAULT_TEMPLATE_TOKENS
        generation = self._template_flights.generation
        found = await self._template_flights.do(
            model_id, lambda: fetch_template_tokens(self.engine_client, endpoint, engine_model_name)
        )
        if generation == self._template_flights.generation:
            self._template_tokens[model_id] = found
        return found

    def queue(self, model_id: str) -> AdmissionQueue:
        """The admission queue of a model; created on first use."""
        queue = self._queues.get(model_id)
        if queue is None:
            queue = self._queues[model_id] = AdmissionQueue(
                self.settings.waiting_room_per_model, self.settings.waiting_room_per_tenant
            )
            if state := self._states.get(model_id):
                queue.update(state)
        return queue

    def cached_state(self, model_id: str) -> ModelState | None:
        """The last state of a model, which may be stale."""
        return self._states.get(model_id)

    def waiting_status(self, model_id: str) -> dict[str, object]:
        """What a waiting stream reports: phase, progress and estimate of its model, and how many requests wait for it."""
        state, queue = self._states.get(model_id), self._queues.get(model_id)
        return {
            "phase": state.phase if state else "unknown",
            "progress": state.progress if state else 0.0,
            "estimate_seconds": state.estimate_seconds if state else None,
            "message": state.message if state else "",
            "waiting": queue.waiting if queue else 0,
        }

    def invalidate(self, model_id: str) -> None:
        """Fetch the model's state before its next use. Waiting requests keep the wake loop running."""
        self._context_lengths.pop(model_id, None)
        self._template_tokens.pop(model_id, None)
        self._state_flights.invalidate()
        self._template_flights.invalidate()
        self._context_flights.invalidate()
        if state := self._states.get(model_id):
            # The rest stays: errors of waiting requests report it until there is a new state.
            self._states[model_id] = replace(state, endpoint=None, capacity=0)
        if (queue := self._queues.get(model_id)) and queue.waiting:
            self.ensure_wake_loop(model_id)

    async def report_unreachable(self, model_id: str, endpoint: str) -> None:
        """An endpoint is unreachable: wait a moment until the control plane notices, before the next attempt."""
        deadline = time.monotonic() + _UNREACHABLE_SECONDS
        self.engine_replicas.mark_unresponsive(endpoint)
        self.invalidate(model_id)
        while (await self.state(model_id)).endpoint == endpoint and time.monotonic() < deadline:
            await asyncio.sleep(_WAKE_POLL_SECONDS)
            self.invalidate(model_id)

    async def is_healthy(self, endpoint: str, *, seconds: float = _HEALTH_SECONDS) -> bool:
        """Whether an engine's health check passes. If it does after a failed request, that request caused the failure."""
        try:
            async with asyncio.timeout(seconds):
                response = await self.engine_client.request(endpoint, "GET", "/health")
                await response.read(_MAX_HEALTH_BYTES)
        except (ConnectionFailed, ResponseFailed, TimeoutError):
            return False
        return response.status == 200

    def ensure_wake_loop(self, model_id: str) -> None:
        """Start the wake loop of a model, unless it runs."""
        if model_id not in self._wake_loops:
            self._wake_loops[model_id] = asyncio.create_task(self._wake_loop(model_id))

    def metrics_text(self) -> str:
        """The metrics in Prometheus' text format."""
        return self.metrics.render((name, queue.running, queue.waiting) for name, queue in self._queues.items())

    async def close(self) -> None:
        """Stop the tasks, return leases, and flush the meter."""
        tasks = [*self._tasks, *self._wake_loops.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.usage_reconciliation.close()
        await self.limiter.close()
        await self.meter.flush()
        self.engine_client.close()

    async def _fetch_state_once(self, model_id: str) -> ModelState:
        return await self._state_flights.do(model_id, lambda: self._fetch_state(model_id))

    async def _fetch_state(self, model_id: str) -> ModelState:
        generation = self._state_flights.generation
        state = await self.control_plane.model_state(model_id)
        if generation == self._state_flights.generation:
            self._states[model_id] = state
            if len(self._states) > _MAX_MODELS:
                self._evict_unused()
        if queue := self._queues.get(model_id):
            queue.update(state)
        return state

    def _evict_unused(self) -> None:
        """Evict the oldest cached models that are not in use; a later request caches them again."""
        unused = [
            model_id
            for model_id in self._states
            if model_id not in self._wake_loops and ((queue := self._queues.get(model_id)) is None or queue.is_idle)
        ]
        for model_id in unused[: _MAX_MODELS // 4]:
            del self._states[model_id]
            self._queues.pop(model_id, None)
            self._context_lengths.pop(model_id, None)
            self._template_tokens.pop(model_id, None)
            self.metrics.evict(model_id)

    async def _wake_loop(self, model_id: str) -> None:
        """Wake the model and apply its state to the queue, until no request waits."""
        queue, woken_at, state = self.queue(model_id), 0.0, None
        try:
            while True:
                unavailable = False
                try:
                    state = await self._fetch_state_once(model_id)
                    if state.phase == "failed" and woken_at:
                        queue.fail_all(model_not_ready(state, "The model could not be started"))
                    elif not state.ready and time.monotonic() - woken_at > _WAKE_RETRY_SECONDS:
                        await self.control_plane.wake(model_id)
                        woken_at = time.monotonic()
                except Unavailable:
                    unavailable = True  # each waiting request has its own deadline
                except PlatformError as error:
                    queue.fail_all(error)
                except Exception:
                    _log.exception("waking %s failed", model_id)
                    queue.fail_all(PlatformError("The model could not be woken: something broke on our side."))
                if unavailable:
                    await asyncio.sleep(_WAKE_RETRY_SECONDS)
                # The check comes last: a request with no wait at all still wakes the model.
                if not queue.waiting:
                    return
                await asyncio.sleep(_READY_POLL_SECONDS if state is not None and state.ready else _WAKE_POLL_SECONDS)
        finally:
            self._wake_loops.pop(model_id, None)

    async def _poll_loop(self) -> None:
        used_at = 0.0
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            now = time.monotonic()
            if now - self._last_request_at < _IDLE_SECONDS:
                async with self._poll_lock:
                    await self._poll_changes()
            if self.key_cache.last_used and now - used_at > _LAST_USED_SECONDS:
                used_at, used = now, self.key_cache.last_used
                self.key_cache.last_used = {}
                try:
                    await self.control_plane.record_last_used(used)
                except Exception:  # last use is approximate: a lost report must not end this loop
                    _log.warning("reporting when keys were last used failed", exc_info=True)

    async def _report_waiting(self) -> None:
        """Report how many requests wait, while any do, and once when none does any more."""
        reported = False
        while True:
            await asyncio.sleep(_WAITING_SECONDS)
            counts = {model_id: queue.waiting for model_id, queue in self._queues.items() if queue.waiting}
            if counts or reported:
                reported = bool(counts)
                with contextlib.suppress(Unavailable):
                    await self.control_plane.report_waiting(instance_id(), counts)

    async def _poll_changes(self) -> None:
        self._poll_attempted_at = time.monotonic()
        try:
            changes = await self.control_plane.changes_since(self._cursor, self.limiter.revision)
        except Exception as error:  # the cached state stays valid for a bounded time
            if not isinstance(error, Unavailable):
                _log.exception("polling for changes failed")
            if time.monotonic() - self._polled_at > _OFFLINE_SECONDS:
                self.key_cache.invalidate_all()
            return
        self._cursor = changes.cursor
        self._polled_at = time.monotonic()
        if changes.keys:
            self.key_cache.invalidate(changes.keys)
        self.limiter.invalidate(changes.keys, changes.limits_revision, changes.subjects)
        models = changes.models
        if changes.price_version != self._price_version or changes.all_models:
            self._price_version, models = changes.price_version, tuple(self._states)
        for model_id in models:
            self.invalidate(model_id)


def model_not_ready(state: ModelState | None, sentence: str) -> ModelNotReady:
    """The error of a request whose model did not become ready: with phase, progress, estimate and a retry-after header."""
    phase = state.phase if state else "unknown"
    estimate = state.estimate_seconds if state else None
    cause = f": {state.message}" if state and state.message else "."
    return ModelNotReady(
        f"{sentence}{cause}",
        param="model",
        headers={"retry-after": str(max(1, min(60, int(estimate or 5) + 1)))},
        details={
            "phase": phase,
            "progress": state.progress if state else 0.0,
            "estimate_seconds": estimate,
        },
    )
