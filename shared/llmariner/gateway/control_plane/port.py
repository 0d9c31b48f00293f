"""The port of a gateway instance to the control plane: keys, model states, leases of quota and the ledger.

Adapters: `llmariner.control_plane.InProcessControlPlane` in processes that hold the database,
`gateway.control_plane.http_client.HttpControlPlane` in others, which call the `internal_gateway` function. A gateway
instance keeps serving for a bounded time while the control plane is unavailable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Key:
    """An authenticated caller: an API key, or a signed-in user; `id` is then the user's.

    `expires_at`: Unix seconds, of the secret or token that the request carries. `models` None: all; `denied_models`:
    those of them that the project's list denies. `allowed_networks`: CIDR, None: all. `own_models`: names that refer to
    models of its own project, where other projects refer to other models by them. `aliases`: the project's aliases, with
    the names of the models that they point at.
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
    aliases: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ModelState:
    """The state of a model.

    `phase`: as in the serving port. `endpoint` and `capacity` (concurrent requests): set when it is ready.
    `replica_endpoints`: one per engine replica, where there are several. `engine_waiting`: requests in the engines' own
    queues. `price`: the current one, None: free. `adapter`: the name by which engines load it on top of `base_model`,
    None: it is no adapter. `project_id`, `base_project_id`: the projects that own the model and its base model, None:
    shared.
    """

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
        """Whether an engine serves it."""
        return self.endpoint is not None


_NONE: Mapping[str, int] = {}


# The types below are named tuples: creating a dataclass with slots takes four times as long at a cold start.
class Changes(NamedTuple):
    """Changes since a cursor: ids of `keys` (or of their users or projects) and of `models`.

    `cursor`: the argument of the next call. `limits_revision`: rises with every change of a limit or budget. `subjects`:
    kinds and ids of the subjects whose limits or budgets changed since the revision of the call, None: unknown.
    `price_version`: differs as soon as another price is in force. `all_models`: other models may have changed, too: the
    caller invalidates all of them.
    """

    cursor: str
    keys: tuple[str, ...]
    models: tuple[str, ...]
    limits_revision: int = 0
    price_version: float = 0.0
    subjects: tuple[tuple[str, str], ...] | None = None
    all_models: bool = False


class Rule(NamedTuple):
    """A limit or a budget of a subject.

    `thresholds` of a limit: `requests_per_minute`, `requests_per_day`, `tokens_per_minute`, `tokens_per_day`,
    `concurrent_requests`, `queue_share`; a missing one is unlimited. `amount` of a budget: nano-dollars per `period`. A
    budget that is not `hard` is accounted but not enforced.
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
    """Amounts of the four leased resources; `money` in nano-dollars."""

    requests: int = 0
    tokens: int = 0
    slots: int = 0
    money: int = 0


NO_AMOUNTS = Amounts()


class LeaseReport(NamedTuple):
    """A gateway instance's report on one rule.

    `used`: its total since the instance started. `reserved`: by requests in flight. `requested`: what it requests in
    addition to `reserved`; `minimum`: less than that would be useless. `seconds_since_use`: since the last use.
    `daily_spend`: money by the day of admission (days since 1970, UTC) of the last days. `acknowledged`: the part of
    `used` that a response confirmed. Amounts are totals, so repeating a report is idempotent.
    """

    rule_id: str
    used: Amounts
    reserved: Amounts
    requested: Amounts
    minimum: Amounts = NO_AMOUNTS
    seconds_since_use: float = 0.0
    daily_spend: Sequence[tuple[int, int]] = ()
    acknowledged: Amounts = NO_AMOUNTS


class LeaseGrant(NamedTuple):
    """The lease of one rule from now on.

    `granted` includes what is reserved, and is 0 for resources that the rule does not limit. `available`: leased to no
    instance. `retry_after`: seconds until the minimum is available, None: it was granted. `instances`: the number of
    instances with a lease. `spent`: money spent in the period.
    """

    rule_id: str
    granted: Amounts
    available: Amounts
    retry_after: float | None
    instances: int
    spent: int = 0


class RulesQuery(NamedTuple):
    """A query for the rules of a caller.

    `minimum`: what its first request needs, of `model`; NO_AMOUNTS: no lease is needed.
    """

    key: Key
    model: str
    minimum: Amounts


class LeaseRequest(NamedTuple):
    """The reports of one gateway instance, and its queries for rules. `sent_at`: the instance's clock, Unix seconds.

    `key`, `model` and `minimum` are the first query, as in `RulesQuery`; `other_queries`: the others.
    """

    instance: str
    sent_at: float
    reports: Sequence[LeaseReport]
    key: Key | None = None
    model: str = ""
    minimum: Amounts = NO_AMOUNTS
    other_queries: Sequence[RulesQuery] = ()


class LeaseResponse(NamedTuple):
    """Grants of the rules that still exist; `rules`: those of the first query; `other_rules`: those of each other query."""

    grants: Sequence[LeaseGrant]
    rules: Sequence[Rule] | None = None
    other_rules: Sequence[Sequence[Rule]] = ()


class ControlPlane(Protocol):
    """The operations of the control plane. Each raises Unavailable when it does not answer; each may be repeated."""

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key | None:
        """Return the active key whose current or previous secret has that keyed hash; None: there is none.

        Raises AuthenticationFailed when it does not belong to the organization or project that the request names.
        """

    async def authenticate_user(
        self, token: str, organization: str | None, project: str | None, client_address: str | None
    ) -> Key | None:
        """Return the user of an issuer's token, in the selected organization and project; None: the token is invalid.

        `client_address`: for the audit log. Raises PlatformError when the user of a valid token may not do this.
        """

    async def model_state(self, model_id: str) -> ModelState:
        """Return the current state of a model. Raises ModelNotFound."""

    async def wake(self, model_id: str) -> None:
        """Start to wake the model; returns at once. Idempotent."""

    async def report_waiting(self, instance: str, counts: Mapping[str, int]) -> None:
        """Report how many requests wait for each model in this instance.

        Called every second while any do, and once when none does.
        """

    async def changes_since(self, cursor: str, limits_revision: int) -> Changes:
        """Return changes since a cursor, and of limits since a revision. An empty cursor returns the first one."""

    async def lease(self, request: LeaseRequest) -> LeaseResponse:
        """Record the reported usage and grant leases, in one transaction for all rules."""

    async def record_events(self, events: Sequence[dict[str, Any]]) -> None:
        """Record ledger events. Idempotent: the caller repeats them when this raises."""

    async def record_last_used(self, last_used: dict[str, int]) -> None:
        """Record when keys were last used: Unix seconds by key id."""
