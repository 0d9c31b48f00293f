"""The one port of the token path: what it must ask of others, and may do without for a while.

Adapters: `llmariner.control_plane.InProcessControl` where database and engines are at hand, `gateway.remote_control` where
they are behind the `internal_gateway` function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from llmariner.gateway.metering.pricing import Price

__all__ = [
    "NO_AMOUNTS",
    "Amounts",
    "Changes",
    "ControlPlane",
    "Key",
    "LeaseGrant",
    "LeaseReport",
    "LeaseRequest",
    "LeaseResponse",
    "ModelState",
    "Rule",
    "RulesQuery",
]


@dataclass(frozen=True, slots=True)
class Key:
    """What the token path needs of who calls: an API key, or a person, whose `id` is the user's then.

    `expires_at` in seconds since 1970, of the secret or token that was shown. `models` None: all; `refused_models`: of
    those, what the project's list refuses. `sources` None: from everywhere; else networks in CIDR form. `own_models`: names
    by which its project means models of its own that others mean other models by.
    """

    id: str
    project_id: str
    organization_id: str
    user_id: str
    scopes: frozenset[str]
    expires_at: float | None
    unlimited: bool
    models: frozenset[str] | None = None
    denied_models: frozenset[str] = frozenset()
    allowed_networks: tuple[str, ...] | None = None
    own_models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model as the token path sees it. `phase` as in the serving port; `endpoint` and `capacity` (requests at once)
    when ready; `replicas`: each engine's own endpoint, where there are several; `engine_waiting`: requests that engines
    have queued; `price`: what it costs now, None: nothing; `adapter`: what an engine of its base model puts on top for it,
    as engines name it, None: it is a model of its own; `base`: the name of that base model; `project_id`, `base_project_id`:
    whose own model and base model are, None: all projects share them."""

    id: str
    project_id: str | None
    task: str
    loaded: bool
    on_demand: bool
    phase: str
    progress: float
    estimate_seconds: float | None
    message: str
    endpoint: str | None
    capacity: int
    engine_waiting: int
    replica_endpoints: tuple[str, ...] = ()
    price: Price | None = None
    adapter: str | None = None
    base_model: str | None = None
    base_project_id: str | None = None

    @property
    def ready(self) -> bool:
        """An engine answers for it."""
        return self.endpoint is not None


_NONE: Mapping[str, int] = {}


# What follows is made of named tuples: a dataclass of slots costs a cold start four times as much.
class Changes(NamedTuple):
    """What changed since a cursor was given out: ids of keys (or of their users or projects) and of models.

    `cursor`: to be given back next time.

    `rules`: rises with every change of a limit or budget; `subjects`: kinds and ids of those whose limits or budgets changed
    since the number that the question came with, None: nobody can say. `prices`: is another one as soon as another price is
    in force.
    `anew`: models may have changed that are not among them: all that are known are to be asked about again.
    """

    cursor: str
    keys: tuple[str, ...]
    models: tuple[str, ...]
    limits_revision: int = 0
    price_version: float = 0.0
    subjects: tuple[tuple[str, str], ...] | None = None
    all_models: bool = False


class Rule(NamedTuple):
    """A limit or a budget that binds a caller.

    `most` of a limit: `requests_per_minute`, `requests_per_day`, `tokens_per_minute`, `tokens_per_day`,
    `concurrent_requests`, `queue_share`; what is absent is not limited. `amount` of a budget in nano-dollars, per `period`;
    one that is not `hard` is counted and refuses nothing.
    """

    id: str
    organization_id: str
    subject: str
    subject_id: str
    model: str
    thresholds: Mapping[str, int] = _NONE
    period: str | None = None
    amount: int | None = None
    hard: bool = True
    alert_ratio: float | None = None


class Amounts(NamedTuple):
    """Of the four things that are leased; `money` in nano-dollars."""

    requests: int = 0
    tokens: int = 0
    slots: int = 0
    money: int = 0


NO_AMOUNTS = Amounts()


class LeaseReport(NamedTuple):
    """What a process says of one rule. `used`: all it has ever used of it; `taken`: reserved by requests under way;
    `wants`: what it wants to have free beside that; `least`: what it must get of it to be of use; `age`: seconds since
    the last use; `days`: of the money used, what requests used that were admitted on the last days (since 1970, UTC);
    `known`: of what it used, what an answer has confirmed. All absolute, so that a hold told twice says the same."""

    rule_id: str
    used: Amounts
    reserved: Amounts
    requested: Amounts
    minimum: Amounts = NO_AMOUNTS
    seconds_since_use: float = 0.0
    daily_spend: Sequence[tuple[int, int]] = ()
    acknowledged: Amounts = NO_AMOUNTS


class LeaseGrant(NamedTuple):
    """What a process may hold of one rule from now on, all it has reserved included; 0 where a rule limits nothing.

    `free`: what nobody holds; `again`: seconds until there is as much as was needed at least, None when there was;
    `replicas`: how many processes hold some of it. `spent`: money spent in the period.
    """

    rule_id: str
    granted: Amounts
    available: Amounts
    retry_after: float | None
    instances: int
    spent: int = 0


class RulesQuery(NamedTuple):
    """A caller whose rules a process wants to know. `least`: what its first request needs, of `model`; NOTHING: its rules
    alone are asked for."""

    key: Key
    model: str
    minimum: Amounts


class LeaseRequest(NamedTuple):
    """One process's account of all rules it holds something of. `at`: its clock, seconds since 1970.

    `newcomer`, `model` and `least` are the first caller whose rules it asks for, as in `Newcomer`; `others`: the others.
    """

    instance: str
    sent_at: float
    reports: Sequence[LeaseReport]
    key: Key | None = None
    model: str = ""
    minimum: Amounts = NO_AMOUNTS
    other_queries: Sequence[RulesQuery] = ()


class LeaseResponse(NamedTuple):
    """Grants of the rules that are still there; `rules`: all that bind the newcomer; `others`: those of the others."""

    grants: Sequence[LeaseGrant]
    rules: Sequence[Rule] | None = None
    other_rules: Sequence[Sequence[Rule]] = ()


class ControlPlane(Protocol):
    """Raises `Unavailable` when it can't answer."""

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key | None:
        """The live key whose present or previous secret has that keyed hash.

        AuthenticationFailed when it is not of the organisation or project that its caller names.
        """

    async def authenticate_user(
        self, token: str, organization: str | None, project: str | None, client_address: str | None
    ) -> Key | None:
        """Who signed in with a token of an issuer, in the organisation and project selected; None: it is no good.

        `source`: the caller's address, for the audit log. PlatformError says why a good token may not do this.
        """

    async def model_state(self, model_id: str) -> ModelState:
        """How a model is now. ModelNotFound for an unknown id."""

    async def wake(self, model_id: str) -> None:
        """Wish it awake; returns at once."""

    async def report_waiting(self, instance: str, counts: Mapping[str, int]) -> None:
        """How many requests wait for each model in this process; said every second while any do, and once when none does."""

    async def changes_since(self, cursor: str, limits_revision: int) -> Changes:
        """What changed since, of limits and budgets since the number `rules`; an empty cursor asks for a first one."""

    async def lease(self, request: LeaseRequest) -> LeaseResponse:
        """Account for what was used, and get slices of what is left: one transaction for all rules."""

    async def record_events(self, events: Sequence[dict[str, Any]]) -> None:
        """Give ledger events away. They may come again if this raises."""

    async def record_last_used(self, last_used: dict[str, int]) -> None:
        """When keys were last used: key id → seconds since 1970."""
