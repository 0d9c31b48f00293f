"""The price list of the installation: prices of a model's tokens and requests, with their validity.

Projects choose the names of their own models, so a price without a project applies only to the shared model of that name,
and a price with a project only to that project's own model.

A price that was valid never changes, so that costs of past requests stay the same: a new price starts now or later, and
ends the previous one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, or_, select

from llmariner.audit import log as audit
from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.gateway.metering.pricing import Price
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import is_default_organization
from llmariner.tenancy.tables import projects
from llmariner.usage.charge_policies import Charge, ChargePolicyList
from llmariner.usage.tables import prices
from llmariner.usage.validity import begin_period

__all__ = [
    "ALL_MODELS",
    "NANO_PER_DOLLAR",
    "TRAINING_ROUTE",
    "ListedPrice",
    "NewPrice",
    "PriceList",
    "Prices",
    "dollars",
    "nano_dollars",
    "price_filter",
]

ALL_MODELS = "*"
NANO_PER_DOLLAR = 10**9
"""Nano-dollars in a dollar."""

TRAINING_ROUTE = "fine_tuning"
"""The route of the ledger's entries of trained tokens."""

_MAX_PRICE = 10**6 * NANO_PER_DOLLAR


@dataclass(frozen=True)
class NewPrice:
    """A price to set: nano-dollars per million tokens, and per request.

    `cached_prompt` None: as `prompt`. `training`: of trained tokens. `project_id`: the project that owns the model; None: a
    shared model.
    """

    model: str
    prompt: int
    completion: int
    cached_prompt: int | None = None
    request: int = 0
    valid_from: float | None = None
    project_id: str | None = None
    training: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.model) <= 256:
            raise InvalidRequest(f"'model' must be a model's id, or '{ALL_MODELS}' for all others.", param="model")
        for name in ("prompt", "completion", "cached_prompt", "request", "training"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= _MAX_PRICE:
                raise InvalidRequest(f"'{name}' must be from 0 to {_MAX_PRICE // NANO_PER_DOLLAR} dollars.", param=name)


@dataclass(frozen=True)
class ListedPrice:
    """A stored price; `valid_to` None: no end."""

    id: str
    model: str
    valid_from: float
    valid_to: float | None
    prompt: int
    cached_prompt: int
    completion: int
    request: int
    created_at: int
    project_id: str | None = None
    training: int = 0

    @property
    def price(self) -> Price:
        """The value that computes costs."""
        return Price(self.id, self.prompt, self.cached_prompt, self.completion, self.request, self.training)

    def is_valid_at(self, at: float) -> bool:
        """Whether the price is valid at a time (seconds since 1970)."""
        return self.valid_from <= at and (self.valid_to is None or at < self.valid_to)


class PriceList:
    """All prices of some models, past and future ones, for repeated lookups.

    `policies`: of all times that are looked up; without them tokens are charged whatever they ran on.
    """

    def __init__(self, listed: Iterable[ListedPrice], policies: ChargePolicyList | None = None) -> None:
        self._policies = policies or ChargePolicyList()
        self._by_id = {price.id: price for price in listed}
        self._of_model: dict[tuple[str, str | None], list[ListedPrice]] = {}
        for price in self._by_id.values():
            self._of_model.setdefault((price.model, price.project_id), []).append(price)

    @classmethod
    def for_models(cls, session: ReadSession, models: Collection[str], project_ids: Collection[str] = ()) -> PriceList:
        """Load the prices of some models and of `ALL_MODELS`, shared ones and those of some projects."""
        query = select(prices).where(price_filter(models, project_ids))
        return cls((_price_from_row(row) for row in session.rows(query)), ChargePolicyList.all(session))

    @classmethod
    def with_ids(cls, session: ReadSession, ids: Collection[str | None]) -> PriceList:
        """Load the prices with some ids; None is ignored."""
        query = select(prices).where(prices.c.id.in_({each for each in ids if each is not None}))
        return cls(_price_from_row(row) for row in session.rows(query))

    def at(
        self,
        model: str,
        at: float,
        base: str | None = None,
        *,
        project_id: str | None = None,
        base_project_id: str | None = None,
        trains: bool = False,
    ) -> Price | None:
        """The price of a model at a time: its own, else its base model's, else that of `ALL_MODELS`; None: it is free.

        `project_id`, `base_project_id`: the projects that own the model and its base model; None: shared. `trains`: of a
        job that trains the model. What runs on devices of its own is free where these are charged instead.
        """
        has_devices = trains or (project_id is not None and (base is None or base_project_id is not None))
        if has_devices and self._policies.at(round(at * 1000)) is Charge.DEVICES:
            return None
        names: list[tuple[str, str | None]] = [(model, project_id)]
        if base is not None:
            names.append((base, base_project_id))
        names += [(ALL_MODELS, project_id), (ALL_MODELS, None)]
        for name in names:
            for price in self._of_model.get(name, ()):
                if price.is_valid_at(at):
                    return price.price
        return None

    def by_id(self, price_id: str | None) -> Price | None:
        """The price with an id; None: not in this list."""
        return self._by_id[price_id].price if price_id is not None and price_id in self._by_id else None


class Prices:
    """The prices of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, actor: Caller, new: NewPrice) -> ListedPrice:
        """Add a price to the list; the previous one ends when it starts.

        Raises PermissionDenied unless the actor's organization runs the installation, so that no customer sets prices.
        """
        cached = new.prompt if new.cached_prompt is None else new.cached_prompt
        # SQLAlchemy compares with None by IS NULL.
        of_model = and_(prices.c.model == new.model, prices.c.project_id == new.project_id)
        with self._database.write() as session:
            if not is_default_organization(session, actor.organization_id):
                raise PermissionDenied("Prices are set by the organization that runs this installation, for all.")
            _check_project(session, new.project_id)
            start, end = begin_period(session, prices, new.valid_from, "What requests cost", same=of_model)
            price = ListedPrice(
                id=new_id("price"),
                model=new.model,
                valid_from=start,
                valid_to=end,
                prompt=new.prompt,
                cached_prompt=cached,
                completion=new.completion,
                request=new.request,
                created_at=int(session.now()),
                project_id=new.project_id,
                training=new.training,
            )
            session.add(prices, **asdict(price))
            payload = {"id": price.id, "data": asdict(price)}
            audit.append_entry(session, actor, "price.created", payload, organization_id=actor.organization_id)
        return price

    def visible_to(self, caller: Caller, *, model: str | None = None, at: float | None = None) -> list[ListedPrice]:
        """As `all`, without other projects' prices unless the caller owns the organization that runs the installation."""
        with self._database.read() as session:
            sees_all = caller.is_owner and is_default_organization(session, caller.organization_id)
        own = (None, caller.project_id)
        return [price for price in self.all(model=model, at=at) if sees_all or price.project_id in own]

    def all(self, *, model: str | None = None, at: float | None = None) -> list[ListedPrice]:
        """The prices by model and start; optionally those of one model, or those valid at a time."""
        query = select(prices).order_by(prices.c.model, prices.c.valid_from, prices.c.created_at, prices.c.id)
        if model is not None:
            query = query.where(prices.c.model == model)
        with self._database.read() as session:
            listed = [_price_from_row(row) for row in session.rows(query)]
        return [price for price in listed if at is None or price.is_valid_at(at)]

    def current(
        self,
        model: str,
        base: str | None = None,
        *,
        project_id: str | None = None,
        base_project_id: str | None = None,
    ) -> Price | None:
        """The present price of a model, as in `PriceList.at`."""
        with self._database.read() as session:
            listed = PriceList.for_models(session, _not_none(model, base), _not_none(project_id, base_project_id))
            return listed.at(model, time.time(), base, project_id=project_id, base_project_id=base_project_id)


def price_filter(models: Collection[str], project_ids: Collection[str]) -> ColumnElement[bool]:
    """The condition on prices of some models and of `ALL_MODELS`, shared ones and those of some projects."""
    whose = or_(prices.c.project_id.is_(None), prices.c.project_id.in_(set(project_ids)))
    return and_(prices.c.model.in_({*models, ALL_MODELS}), whose)


def _not_none(*values: str | None) -> list[str]:
    return [value for value in values if value is not None]


def _check_project(session: ReadSession, project_id: str | None) -> None:
    """Raise InvalidRequest if the project does not exist."""
    if project_id is not None and session.value(select(projects.c.id).where(projects.c.id == project_id)) is None:
        raise InvalidRequest(f"No project with id '{project_id[:80]}'.", param="project_id")


def _price_from_row(row: Row[Any]) -> ListedPrice:
    return ListedPrice(**row._mapping)


def dollars(nano: int) -> float:
    """Convert nano-dollars to dollars."""
    return nano / NANO_PER_DOLLAR


def nano_dollars(amount: Decimal, param: str) -> int:
    """Convert dollars to nano-dollars. Raises InvalidRequest with `param` for a fraction of a nano-dollar."""
    nano = amount * NANO_PER_DOLLAR
    if nano != int(nano):
        raise InvalidRequest(
            f"'{param}' has more than nine decimal places; money is counted in nano-dollars.", param=param
        )
    return int(nano)
