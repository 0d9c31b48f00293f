"""The control port where database and engines are at hand: in the local home, and inside `internal_gateway`."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from llmariner.errors import ModelNotFound
from llmariner.gateway.authentication.key_cache import sign_in_not_configured
from llmariner.gateway.control_plane.port import Changes, Key, LeaseRequest, LeaseResponse, ModelState
from llmariner.gateway.metering.pricing import Price
from llmariner.limits.leases import Leases
from llmariner.limits.restrictions import Restriction, key_restriction
from llmariner.limits.revisions import Revisions
from llmariner.models.model import ActivationStatus, Model
from llmariner.models.registry import ModelRegistry
from llmariner.platform.serving import Phase, Serving, Status
from llmariner.platform.serving.waiting_requests import WaitingRequests
from llmariner.tenancy.authenticator import Authenticator
from llmariner.tenancy.keys.store import ApiKey, Keys
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
from llmariner.usage.batch_writer import BatchWriter
from llmariner.usage.ledger import Ledger
from llmariner.usage.prices import Prices

__all__ = ["InProcessControlPlane"]

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
_MAX_PHASE_CHANGES = 1000
# Of the control function; a cursor says for each how much of it was told.
_MAX_INSTANCES = 32
_THREADS = 6


class InProcessControlPlane:
    """See `gateway.control.Control`. Database work happens in threads, off the loop that relays tokens.

    The threads are its own: whatever else a process runs in threads (on one machine, all of the platform) never keeps a
    request for tokens waiting.
    """

    def __init__(
        self,
        keys: Keys,
        authenticator: Authenticator,
        people: Callable[[], TokenSignIn | None],
        restriction: Callable[[str], Restriction],
        leases: Leases,
        revisions: Revisions,
        prices: Prices,
        registry: ModelRegistry,
        serving: Serving,
        waiting_requests: WaitingRequests,
        ledger: Ledger,
    ) -> None:
        self._keys = keys
        self._authenticator = authenticator
        self._people = people
        self._restriction_of = restriction
        self._leases = leases
        self._revisions = revisions
        self._prices = prices
        self._registry = registry
        self._serving = serving
        self._waiting_requests = waiting_requests
        # At once, but one after another: a slow database gets few, larger transactions, and no more than one thread.
        self._batch_writer = BatchWriter(ledger.record, seconds=0)
        self._phase_changes: list[tuple[int, str]] = []
        self._last_phase_change = 0
        self._instance = secrets.token_hex(4)
        self._threads = ThreadPoolExecutor(_THREADS, "control")
        serving.subscribe(self._on_phase_change)

    async def _in_thread(self, work: Callable[[*Arguments], T], *args: *Arguments) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key | None:
        """See the port."""
        return await self._in_thread(self._find_key, digest, organization, project)

    async def authenticate_user(
        self, token: str, organization: str | None, project: str | None, client_address: str | None
    ) -> Key | None:
        """See the port."""
        return await self._in_thread(self._find_user, token, organization, project, client_address)

    async def model_state(self, model_id: str) -> ModelState:
        """See the port."""
        model = await self._in_thread(self._registry.get, model_id)
        status = await self._serving.status(model_id) if model.loaded else Status()
        price, base_project_id = await self._in_thread(self._priced, model)
        return ModelState(
            id=model.name,
            project_id=model.project_id,
            task=model.task,
            loaded=model.loaded,
            on_demand=model.config.on_demand or model.activation_status is ActivationStatus.ACTIVE,
            phase=status.phase,
            progress=status.progress,
            estimate_seconds=status.estimate_seconds,
            message=status.message,
            endpoint=status.endpoint,
            capacity=status.capacity,
            engine_waiting=status.requests_waiting,
            replica_endpoints=status.replicas,
            price=price,
            adapter=None if model.base_name is None else model.name,
            base_model=model.base_name,
            base_project_id=base_project_id,
        )

    async def wake(self, model_id: str) -> None:
        """See the port."""
        await self._serving.wake(model_id)

    async def report_waiting(self, instance: str, counts: Mapping[str, int]) -> None:
        """See the port."""
        self._waiting_requests.report(instance, counts)

    async def changes_since(self, cursor: str, limits_revision: int) -> Changes:
        """See the port.

        Phases are numbered by each copy of the control function for itself. To whoever was told nothing by this copy yet,
        but by others, it can't say what they missed: then everything is to be asked anew, once.
        """
        told = _Cursor.parse(cursor)
        newest = await self._in_thread(self._revisions.latest)
        keys: list[str] = []
        moved: set[str] = set()
        # Nothing is asked about as long as nothing changed, however many ask.
        if cursor and newest.keys > told.keys:
            keys = (await self._in_thread(self._keys.changed_since, told.keys))[1]
        if cursor and newest.models > told.models:
            moved.update((await self._in_thread(self._registry.changed_since, told.models))[1])
            keys += {model_id.partition("@")[2] for model_id in moved if "@" in model_id}
        # Where no task of ours watches the engines, asking is what makes a change be seen.
        awake = await self._serving.statuses()
        known = told.phases.pop(self._instance, None)
        anew = bool(cursor) and (known is None or known < self._last_phase_change - _MAX_PHASE_CHANGES)
        if cursor:
            moved.update(name for number, name in self._phase_changes if number > (known or 0))
        if anew:
            moved.update(awake)
        at = _Cursor(newest.keys, newest.models, {**told.phases, self._instance: self._last_phase_change})
        subjects = (
            None
            if newest.limits == limits_revision
            else await self._in_thread(self._revisions.changed_subjects_since, limits_revision)
        )
        return Changes(at.text(), tuple(keys), tuple(moved), newest.limits, newest.prices, subjects, anew)

    async def lease(self, request: LeaseRequest) -> LeaseResponse:
        """See the port."""
        return await self._in_thread(self._leases.lease, request)

    async def record_events(self, events: Sequence[dict[str, Any]]) -> None:
        """See the port."""
        await self._batch_writer.record(events)

    async def record_last_used(self, last_used: dict[str, int]) -> None:
        """See the port."""
        await self._in_thread(self._authenticator.last_use.record, last_used)

    async def find_model_state(self, model_id: str) -> ModelState | None:
        """As `model`, but None for an unknown id: what goes over the wire."""
        try:
            return await self.model_state(model_id)
        except ModelNotFound:
            return None

    def _find_key(self, digest: str, organization: str | None, project: str | None) -> Key | None:
        found = self._authenticator.authenticate_digest(digest, organization, project)
        if found is None:
            return None
        key, caller = found
        if key.project_id is None:
            return None  # an admin key has no project whose models it could use
        restricted = key_restriction(key)
        return Key(
            id=key.id,
            project_id=key.project_id,
            organization_id=key.organization_id,
            user_id=key.user_id,
            scopes=caller.scopes,
            expires_at=_expiry(key, digest),
            unlimited=caller.unlimited,
            models=restricted.models,
            denied_models=restricted.refused_models,
            allowed_networks=restricted.sources,
            own_models=self._registry.qualified_names(key.project_id),
        )

    def _priced(self, model: Model) -> tuple[Price | None, str | None]:
        """What a model costs, and whose own its base model is."""
        base = None if model.base_model_id is None else self._registry.get(model.base_model_id).project_id
        of = {"project_id": model.project_id, "base_project_id": base}
        return self._prices.now(model.name, model.base_name, **of), base

    def _find_user(self, token: str, organization: str | None, project: str | None, client_address: str | None) -> Key:
        people = self._people()
        if people is None:
            raise sign_in_not_configured()
        caller = people.authenticate(token, organization, project, source=client_address or "")
        owner = caller.key_owner
        restricted = self._restriction_of(owner.project_id)
        return Key(
            id=owner.user_id,
            project_id=owner.project_id,
            organization_id=owner.organization_id,
            user_id=owner.user_id,
            scopes=caller.scopes,
            expires_at=_claimed_expiry(token),
            unlimited=False,
            models=restricted.models,
            denied_models=restricted.refused_models,
            own_models=self._registry.qualified_names(owner.project_id),
        )

    def _on_phase_change(self, model_id: str, status: Status) -> None:
        if status.phase in (Phase.READY, Phase.STOPPING, Phase.ASLEEP, Phase.FAILED):
            self._last_phase_change += 1
            self._phase_changes = [*self._phase_changes[-_MAX_PHASE_CHANGES:], (self._last_phase_change, model_id)]


class _Cursor(NamedTuple):
    """What a cursor says: revisions of keys and models, and of each copy the number of the last phase it told of."""

    keys: int
    models: int
    phases: dict[str, int]

    @classmethod
    def parse(cls, cursor: str) -> _Cursor:
        """Back from `text`; what is no cursor of this form counts as a first one."""
        keys, _, rest = cursor.partition(".")
        models, _, listed = rest.partition(".")
        rows = [row.partition(":") for row in listed.split(",") if ":" in row][-_MAX_INSTANCES:]
        try:
            return cls(int(keys), int(models), {copy: int(number) for copy, _, number in rows})
        except ValueError:
            return cls(0, 0, {})

    def text(self) -> str:
        """The cursor."""
        rows = list(self.phases.items())[-_MAX_INSTANCES:]
        return f"{self.keys}.{self.models}." + ",".join(f"{copy}:{number}" for copy, number in rows)


def _expiry(key: ApiKey, digest: str) -> float | None:
    """When the secret of that digest is no good any more."""
    if digest == key.previous_digest and key.previous_expires_at is not None:
        return min(key.previous_expires_at, key.expires_at or key.previous_expires_at)
    return key.expires_at


def _claimed_expiry(token: str) -> float:
    """The expiry that a token says of itself; whoever asks has had the token checked."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return float(claims["exp"])
