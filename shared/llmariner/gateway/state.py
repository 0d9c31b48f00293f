"""The state that requests of one process share: keys, limits, models, rooms, the meter; and the tasks that tend it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

from llmariner.errors import ModelNotFound, ModelNotReady, PlatformError, Unavailable
from llmariner.gateway.admission.chat_template import DEFAULT_TEMPLATE_TOKENS, TemplateTokens, fetch_template_tokens
from llmariner.gateway.admission.context_length import DEFAULT_CONTEXT_LENGTH, fetch_context_length
from llmariner.gateway.admission.engine_replicas import EngineReplicas
from llmariner.gateway.admission.queue import AdmissionQueue
from llmariner.gateway.authentication.failed_attempts import FailedAttemptLimiter
from llmariner.gateway.authentication.key_cache import KeyCache
from llmariner.gateway.background_tasks import supervise
from llmariner.gateway.control_plane.port import ControlPlane, Key, ModelState
from llmariner.gateway.limits.limiter import Limiter
from llmariner.gateway.metering.meter import Meter
from llmariner.gateway.metering.metrics import Metrics
from llmariner.gateway.metering.usage_reconciliation import UsageReconciliation
from llmariner.gateway.requests.body_budget import BodyBudget
from llmariner.gateway.requests.client_ip import ClientIpResolver
from llmariner.gateway.requests.request_ids import instance_id
from llmariner.gateway.single_flight import SingleFlight
from llmariner.http_client import Client, ConnectionFailed, ResponseFailed
from llmariner.settings import GatewaySettings, Secret

__all__ = ["Gateway", "not_ready"]

_log = logging.getLogger(__name__)
_POLL_SECONDS = 2.0
_STALE_SECONDS = 4.0
# How long a request waits to hear what changed while others ask and get no answer: what is known goes on then. Longer ago
# than that nobody asked, so that what was revoked meanwhile is not known here: then a request waits for the answer.
_PATIENCE_SECONDS = 1.0
_ASKED_SECONDS = 20.0
_IDLE_SECONDS = 60.0
_USED_SECONDS = 30.0
# How long keys known to this process stay good while nobody can say what changed.
_TRUST_SECONDS = 600.0
_KEEPER_SECONDS = 0.1
# Who serves a model that is ready looks at its engines that often.
_READY_SECONDS = 0.5
_WISH_SECONDS = 0.5
_NOTICE_SECONDS = 2.0
_MOST_MODELS = 1000
_WAITING_SECONDS = 1.0
_HEALTH_SECONDS = 5.0
_HEALTH_BYTES = 64 * 1024


class Gateway:
    """One per process; begins its tasks with the first request, in that request's loop."""

    def __init__(self, control: ControlPlane, settings: GatewaySettings, pepper: Secret) -> None:
        self.control = control
        self.settings = settings
        self.client = Client(write_timeout=settings.write_timeout)
        self.body_budget = BodyBudget(settings.body_buffer_bytes, settings.body_buffer_bytes_per_tenant)
        self.response_budget = BodyBudget(settings.response_buffer_bytes, settings.response_buffer_bytes * 2 // 3)
        self.key_cache = KeyCache(control, pepper.reveal(), FailedAttemptLimiter(settings.unknown_keys_per_minute))
        self.limits = Limiter(control)
        self.client_ips = ClientIpResolver(settings.trusted_proxies)
        self.metrics = Metrics()
        self.meter = Meter(control, self.metrics)
        self.replicas = EngineReplicas()
        self.settlement = UsageReconciliation(self.client)
        self._states: dict[str, ModelState] = {}
        self._rooms: dict[str, AdmissionQueue] = {}
        self._contexts: dict[str, int] = {}
        self._templates: dict[str, TemplateTokens] = {}
        self._asking: SingleFlight[ModelState] = SingleFlight()
        self._asking_templates: SingleFlight[TemplateTokens] = SingleFlight()
        self._asking_contexts: SingleFlight[int] = SingleFlight()
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._cursor = ""
        self._prices = 0.0
        self._polled_at = self._tried_at = float("-inf")
        self._polling = asyncio.Lock()
        self._last_request = 0.0

    def fresh(self) -> bool:
        """To be asked first by every request: whether what is known may be relied on; else `refresh`."""
        self._last_request = now = time.monotonic()
        return now - self._tried_at <= _STALE_SECONDS

    async def refresh(self) -> None:
        """Start the tasks, if they don't run yet, and ask what changed; where nobody answers, what is known goes on."""
        if not self._tasks:
            tending = (self.meter.run, self.limits.run, self._poll, self._tell_waiting)
            self._tasks = [asyncio.create_task(supervise(each)) for each in tending]
        asked = time.monotonic() - self._tried_at <= _ASKED_SECONDS
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS if asked else None), self._polling:
                if not self.fresh():
                    await self._ask_for_changes()
        except TimeoutError:
            self._tried_at = time.monotonic()  # the next requests need not wait, too

    @staticmethod
    def registered(key: Key, name: str) -> str:
        """The id in the registry of the model that a caller means by a name; everything below goes by it."""
        if name in key.own_models:
            return f"{name}@{key.project_id}"
        if "@" in name:
            raise ModelNotFound(name)  # no name holds one
        return name

    def ready_state(self, model_id: str) -> ModelState | None:
        """The state of a model that is known to be ready."""
        state = self._states.get(model_id)
        return state if state is not None and state.endpoint is not None else None

    async def state(self, model_id: str) -> ModelState:
        """How a model is: from memory while it is ready, else asked. ModelNotFound, Unavailable."""
        state = self._states.get(model_id)
        return state if state is not None and state.ready else await self._asked(model_id)

    async def context_length(self, model_id: str, state: ModelState) -> int:
        """How many tokens prompt and answer of a model may have together, as its engine says."""
        known = self._contexts.get(model_id)
        if known is None and (endpoint := state.endpoint) is not None:
            turn = self._asking_contexts.generation
            known = await self._asking_contexts.do(
                model_id, lambda: fetch_context_length(self.client, endpoint, state.id)
            )
            if turn == self._asking_contexts.generation:
                self._contexts[model_id] = known
        return known or DEFAULT_CONTEXT_LENGTH

    def known_context(self, model_id: str) -> int | None:
        """The same, of a model whose engine was asked already."""
        return self._contexts.get(model_id)

    def known_template(self, model_id: str) -> TemplateTokens | None:
        """What the chat template of a model adds, if its engine was asked already."""
        return self._templates.get(model_id)

    async def chat_template(self, model_id: str, name: str, state: ModelState) -> TemplateTokens:
        """The same, asked where it is not known; `name`: the model's, as its engine knows it."""
        if (endpoint := state.endpoint) is None:
            return DEFAULT_TEMPLATE_TOKENS
        turn = self._asking_templates.generation
        found = await self._asking_templates.do(model_id, lambda: fetch_template_tokens(self.client, endpoint, name))
        if turn == self._asking_templates.generation:
            self._templates[model_id] = found
        return found

    def room(self, model_id: str) -> AdmissionQueue:
        """The room of a model; made when first asked for."""
        room = self._rooms.get(model_id)
        if room is None:
            room = self._rooms[model_id] = AdmissionQueue(
                self.settings.waiting_room_per_model, self.settings.waiting_room_per_tenant
            )
            if state := self._states.get(model_id):
                room.update(state)
        return room

    def known(self, model_id: str) -> ModelState | None:
        """What was last heard of a model."""
        return self._states.get(model_id)

    def forget(self, model_id: str) -> None:
        """Its endpoint did not answer, or something changed: ask again. Whoever waits is looked after at once."""
        self._contexts.pop(model_id, None)
        self._templates.pop(model_id, None)
        self._asking.invalidate()
        self._asking_templates.invalidate()
        self._asking_contexts.invalidate()
        if state := self._states.get(model_id):
            # The rest stays: it is what those who wait are told until there is news.
            self._states[model_id] = replace(state, endpoint=None, capacity=0)
        if (room := self._rooms.get(model_id)) and room.waiting:
            self.tend(model_id)

    async def gone(self, model_id: str, endpoint: str) -> None:
        """Nothing answers at that endpoint: give those who look after it a moment to notice, before it is tried again."""
        deadline = time.monotonic() + _NOTICE_SECONDS
        self.replicas.mark_unresponsive(endpoint)
        self.forget(model_id)
        while (await self.state(model_id)).endpoint == endpoint and time.monotonic() < deadline:
            await asyncio.sleep(_KEEPER_SECONDS)
            self.forget(model_id)

    async def is_well(self, endpoint: str, *, seconds: float = _HEALTH_SECONDS) -> bool:
        """Whether an engine that failed on a request says that it is healthy: then the failure is that request's own."""
        try:
            async with asyncio.timeout(seconds):
                response = await self.client.request(endpoint, "GET", "/health")
                await response.read(_HEALTH_BYTES)
        except (ConnectionFailed, ResponseFailed, TimeoutError):
            return False
        return response.status == 200

    def tend(self, model_id: str) -> None:
        """See to it that somebody wakes the model and lets the waiting in, as long as anybody waits."""
        if model_id not in self._keepers:
            self._keepers[model_id] = asyncio.create_task(self._keep(model_id))

    def text(self) -> str:
        """The metrics."""
        return self.metrics.text((name, room.running, room.waiting) for name, room in self._rooms.items())

    async def close(self) -> None:
        """End the tasks; give away what the meter holds."""
        tasks = [*self._tasks, *self._keepers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.settlement.close()
        await self.limits.close()
        await self.meter.give_away()
        self.client.close()

    async def _asked(self, model_id: str) -> ModelState:
        return await self._asking.do(model_id, lambda: self._ask(model_id))

    async def _ask(self, model_id: str) -> ModelState:
        turn = self._asking.generation
        state = await self.control.model_state(model_id)
        if turn == self._asking.generation:
            self._states[model_id] = state
            if len(self._states) > _MOST_MODELS:
                self._forget_unused()
        if room := self._rooms.get(model_id):
            room.update(state)
        return state

    def _forget_unused(self) -> None:
        """Forget models that nobody uses now, those known longest first: whoever asks for one again makes it known."""
        unused = [
            model_id
            for model_id in self._states
            if model_id not in self._keepers and ((room := self._rooms.get(model_id)) is None or room.is_idle)
        ]
        for model_id in unused[: _MOST_MODELS // 4]:
            del self._states[model_id]
            self._rooms.pop(model_id, None)
            self._contexts.pop(model_id, None)
            self._templates.pop(model_id, None)
            self.metrics.forget(model_id)

    async def _keep(self, model_id: str) -> None:
        """Wake the model, watch it come, let the waiting in as it has room; until nobody waits."""
        room, wished_at, state = self.room(model_id), 0.0, None
        try:
            while True:
                try:
                    state = await self._asked(model_id)
                    if state.phase == "failed" and wished_at:
                        room.fail_all(not_ready(state, "The model could not be started"))
                    elif not state.ready and time.monotonic() - wished_at > _WISH_SECONDS:
                        await self.control.wake(model_id)
                        wished_at = time.monotonic()
                except Unavailable:
                    await asyncio.sleep(_WISH_SECONDS)  # each waiter has a limit of its own
                except PlatformError as error:
                    room.fail_all(error)
                except Exception:
                    _log.exception("waking %s failed", model_id)
                    room.fail_all(PlatformError("The model could not be woken: something broke on our side."))
                # Looked at last: a caller who would not wait at all still wakes the model.
                if not room.waiting:
                    return
                await asyncio.sleep(_READY_SECONDS if state is not None and state.ready else _KEEPER_SECONDS)
        finally:
            self._keepers.pop(model_id, None)

    async def _poll(self) -> None:
        used_at = 0.0
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            now = time.monotonic()
            if now - self._last_request < _IDLE_SECONDS:
                async with self._polling:
                    await self._ask_for_changes()
            if self.key_cache.last_used and now - used_at > _USED_SECONDS:
                used_at, used = now, self.key_cache.last_used
                self.key_cache.last_used = {}
                try:
                    await self.control.record_last_used(used)
                except Exception:  # coarse on purpose, and not worth the end of this loop
                    _log.warning("when keys were last used could not be noted", exc_info=True)

    async def _tell_waiting(self) -> None:
        """Say how many requests wait for models, as long as any do."""
        told = False
        while True:
            await asyncio.sleep(_WAITING_SECONDS)
            counts = {model_id: room.waiting for model_id, room in self._rooms.items() if room.waiting}
            if counts or told:
                told = bool(counts)
                with contextlib.suppress(Unavailable):
                    await self.control.report_waiting(instance_id(), counts)

    async def _ask_for_changes(self) -> None:
        self._tried_at = time.monotonic()
        try:
            changes = await self.control.changes_since(self._cursor, self.limits.revision)
        except Exception as error:  # whatever it was, known keys and models go on for a bounded time
            if not isinstance(error, Unavailable):
                _log.exception("what changed could not be asked")
            if time.monotonic() - self._polled_at > _TRUST_SECONDS:
                self.key_cache.invalidate_all()
            return
        self._cursor = changes.cursor
        self._polled_at = time.monotonic()
        if changes.keys:
            self.key_cache.invalidate(changes.keys)
        self.limits.invalidate(changes.keys, changes.rules, changes.subjects)
        models = changes.models
        if changes.prices != self._prices or changes.anew:
            self._prices, models = changes.prices, tuple(self._states)
        for model_id in models:
            self.forget(model_id)


def not_ready(state: ModelState | None, sentence: str) -> ModelNotReady:
    """The error of a wait that ended without the model: with phase, progress and estimate, and when to try again."""
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
