"""The control plane in a process that holds the database: in standalone mode, and in the `internal_gateway` function."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, TypeVarTuple

from llmariner.errors import ModelNotFound
from llmariner.gateway.authentication.key_cache import sign_in_not_configured
from llmariner.gateway.control_plane.port import Changes, Key, LeaseRequest, LeaseResponse, ModelState
from llmariner.gateway.metering.pricing import Price
from llmariner.limits.leases import Leases
from llmariner.limits.restrictions import Restriction, key_restriction, project_restriction
from llmariner.limits.revisions import Revisions
from llmariner.models.aliases import ModelAliases
from llmariner.models.model import ActivationStatus, Model
from llmariner.models.registry import ModelRegistry
from llmariner.platform.serving import Phase, Serving, Status
from llmariner.platform.serving.waiting_requests import WaitingRequests
from llmariner.tenancy.authenticator import Authenticator
from llmariner.tenancy.background_work import BackgroundTokens, Originator, authorize
from llmariner.tenancy.keys.store import ApiKey, Keys
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
from llmariner.usage.batch_writer import BatchWriter
from llmariner.usage.ledger import Ledger
from llmariner.usage.prices import Prices

if TYPE_CHECKING:
    from llmariner.context import Context

__all__ = ["InProcessControlPlane", "make_control_plane"]

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
_MAX_PHASE_CHANGES = 1000
# Instances of the control plane that a cursor has a position for.
_MAX_INSTANCES = 32
_THREADS = 6


class InProcessControlPlane:
    """See `ControlPlane`. Database work runs in threads, off the event loop that relays tokens.

    The thread pool is its own, so that other work in threads (in standalone mode, of the whole platform) never delays
    inference requests.
    """

    def __init__(
        self,
        keys: Keys,
        authenticator: Authenticator,
        token_sign_in: Callable[[], TokenSignIn | None],
        restriction: Callable[[str], Restriction],
        leases: Leases,
        revisions: Revisions,
        prices: Prices,
        registry: ModelRegistry,
        aliases: ModelAliases,
        serving: Serving,
        waiting_requests: WaitingRequests,
        ledger: Ledger,
        background_tokens: BackgroundTokens,
        authorize_background: Callable[[Originator], tuple[ApiKey | None, frozenset[str]]],
    ) -> None:
        self._keys = keys
        self._authenticator = authenticator
        self._token_sign_in = token_sign_in
        self._restriction_of = restriction
        self._leases = leases
        self._revisions = revisions
        self._prices = prices
        self._registry = registry
        self._aliases = aliases
        self._serving = serving
        self._waiting_requests = waiting_requests
        self._background_tokens = background_tokens
        self._authorize_background = authorize_background
        # Without delay, but one batch at a time: a slow database gets fewer, larger transactions, and uses one thread.
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

        Each instance of the control plane numbers the phase changes that it observes. For a cursor from other instances
        only, this instance cannot tell which changes are new: it then sets `all_models`, once.
        """
        since = _Cursor.parse(cursor)
        latest = await self._in_thread(self._revisions.latest)
        keys: list[str] = []
        models: set[str] = set()
        # One cached read of the revisions answers all gateway instances while nothing changes.
        if cursor and latest.keys > since.keys:
            keys = (await self._in_thread(self._keys.changed_since, since.keys))[1]
        if cursor and latest.models > since.models:
            models.update((await self._in_thread(self._registry.changed_since, since.models))[1])
            keys += {model_id.partition("@")[2] for model_id in models if "@" in model_id}
            keys += await self._in_thread(self._aliases.projects_changed_since, since.models)
        # Where no background task observes the engines, this read detects changes of their phases.
        running = await self._serving.statuses()
        position = since.phases.pop(self._instance, None)
        all_models = bool(cursor) and (position is None or position < self._last_phase_change - _MAX_PHASE_CHANGES)
        if cursor:
            models.update(name for number, name in self._phase_changes if number > (position or 0))
        if all_models:
            models.update(running)
        cursor_now = _Cursor(latest.keys, latest.models, {**since.phases, self._instance: self._last_phase_change})
        subjects = (
            None
            if latest.limits == limits_revision
            else await self._in_thread(self._revisions.changed_subjects_since, limits_revision)
        )
        return Changes(
            cursor_now.text(), tuple(keys), tuple(models), latest.limits, latest.prices, subjects, all_models
        )

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
        """Like `model_state`, but None for an unknown id."""
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
            return None  # admin keys belong to no project, and so cannot use models
        aliases = self._aliases.targets(key.project_id)
        restricted = key_restriction(key, aliases)
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
            aliases=aliases,
        )

    def _priced(self, model: Model) -> tuple[Price | None, str | None]:
        """The current price of a model, and the project that owns its base model."""
        base = None if model.base_model_id is None else self._registry.get(model.base_model_id).project_id
        of = {"project_id": model.project_id, "base_project_id": base}
        return self._prices.current(model.name, model.base_name, **of), base

    def _find_user(self, token: str, organization: str | None, project: str | None, client_address: str | None) -> Key:
        if (background := self._background_tokens.verify(token)) is not None:
            return self._find_originator(*background)
        sign_in = self._token_sign_in()
        if sign_in is None:
            raise sign_in_not_configured()
        caller = sign_in.authenticate(token, organization, project, source=client_address or "")
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
            aliases=self._aliases.targets(owner.project_id),
        )

    def _find_originator(self, originator: Originator, expires_at: float) -> Key:
        """The caller of background work: its API key or user, with the right to use models in one project."""
        key, scopes = self._authorize_background(originator)
        aliases = self._aliases.targets(originator.project_id)
        restricted = self._restriction_of(originator.project_id) if key is None else key_restriction(key, aliases)
        return Key(
            id=originator.user_id if key is None else key.id,
            project_id=originator.project_id,
            organization_id=originator.organization_id,
            user_id=originator.user_id,
            scopes=scopes,
            expires_at=expires_at,
            unlimited=key is not None and key.excluded_from_rate_limiting,
            models=restricted.models,
            denied_models=restricted.refused_models,
            own_models=self._registry.qualified_names(originator.project_id),
            aliases=aliases,
        )

    def _on_phase_change(self, model_id: str, status: Status) -> None:
        if status.phase in (Phase.READY, Phase.STOPPING, Phase.ASLEEP, Phase.FAILED):
            self._last_phase_change += 1
            self._phase_changes = [*self._phase_changes[-_MAX_PHASE_CHANGES:], (self._last_phase_change, model_id)]


class _Cursor(NamedTuple):
    """A cursor: revisions of keys and models, and the number of the last phase change by instance of the control plane."""

    keys: int
    models: int
    phases: dict[str, int]

    @classmethod
    def parse(cls, cursor: str) -> _Cursor:
        """The inverse of `text`. Any other text is the first cursor."""
        keys, _, rest = cursor.partition(".")
        models, _, listed = rest.partition(".")
        rows = [row.partition(":") for row in listed.split(",") if ":" in row][-_MAX_INSTANCES:]
        try:
            return cls(int(keys), int(models), {instance: int(number) for instance, _, number in rows})
        except ValueError:
            return cls(0, 0, {})

    def text(self) -> str:
        """The cursor."""
        rows = list(self.phases.items())[-_MAX_INSTANCES:]
        return f"{self.keys}.{self.models}." + ",".join(f"{instance}:{number}" for instance, number in rows)


def _expiry(key: ApiKey, digest: str) -> float | None:
    """When the secret with that digest expires, in Unix seconds."""
    if digest == key.previous_digest and key.previous_expires_at is not None:
        return min(key.previous_expires_at, key.expires_at or key.previous_expires_at)
    return key.expires_at


def _claimed_expiry(token: str) -> float:
    """The `exp` claim of a token, in Unix seconds. The caller has verified the token."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return float(claims["exp"])


def make_control_plane(context: Context) -> InProcessControlPlane:
    """The control plane on a process's own database and serving port."""
    return InProcessControlPlane(
        keys=context.keys,
        authenticator=context.authenticator,
        token_sign_in=lambda: context.identity,
        restriction=partial(project_restriction, context.database),
        leases=context.leases,
        revisions=Revisions(context.database),
        prices=context.prices,
        registry=context.registry,
        aliases=context.model_aliases,
        serving=context.serving,
        waiting_requests=context.waiting_requests,
        ledger=context.ledger,
        background_tokens=context.background_tokens,
        authorize_background=partial(authorize, context.database),
    )
