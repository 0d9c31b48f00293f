"""/v1/prices: prices of each model's tokens and requests, and of compute, with their periods of validity."""

from dataclasses import asdict
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import ConfigDict, Field

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.lists import Cursor, Limit, list_response
from llmariner.http.schemas.timestamps import FractionalTimestamp
from llmariner.showback.prices import ComputePrices
from llmariner.showback.representation import compute_price_object
from llmariner.tenancy.principal import Caller
from llmariner.usage.charge_policies import Charge, ChargePolicies, ChargePolicy
from llmariner.usage.prices import ListedPrice, NewPrice, Prices, dollars, nano_dollars

Reader = Annotated[Caller, require_scope("api.prices.read", objects="member")]
Writer = Annotated[Caller, require_org_admin("api.prices.write", objects="installation")]
Dollars = Annotated[Decimal, Field(ge=0, le=10**6, allow_inf_nan=False)]


class PriceBody(Body):
    """A price in US dollars, per million tokens and per request. `model` '*': all models without a price of their own.

    `training`: per million trained tokens. `project_id`: the price of that project's own model of the name; None: that of
    the shared model.
    """

    model_config = ConfigDict(strict=False)  # for decimals

    model: str = Field(min_length=1, max_length=256)
    prompt: Dollars
    completion: Dollars
    cached_prompt: Dollars | None = None
    request: Dollars = Decimal(0)
    training: Dollars = Decimal(0)
    valid_from: FractionalTimestamp | None = None
    project_id: str | None = Field(default=None, min_length=1, max_length=64)


class ComputePriceBody(Body):
    """A price in US dollars of an hour of a GPU, a core, a GiB of memory. `device`: the kind of GPU.

    '*': all without a price of their own; '': workloads without a GPU.
    """

    model_config = ConfigDict(strict=False)  # for decimals

    device: str = Field(max_length=128)
    gpu_hour: Dollars = Decimal(0)
    core_hour: Dollars = Decimal(0)
    gib_hour: Dollars = Decimal(0)
    valid_from: FractionalTimestamp | None = None


class ChargePolicyBody(Body):
    """What models of a project and fine-tuning jobs pay from a time on: `tokens`, `devices` or `both`."""

    charge: Literal["tokens", "devices", "both"]
    valid_from: FractionalTimestamp | None = None


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("prices", context)
    app.get("/v1/prices")(list_prices)
    app.post("/v1/prices")(set_price)
    app.get("/v1/prices/charge")(list_charge_policies)
    app.post("/v1/prices/charge")(set_charge_policy)
    app.get("/v1/prices/compute")(list_compute_prices)
    app.post("/v1/prices/compute")(set_compute_price)
    return app


def list_prices(
    request: Request,
    caller: Reader,
    model: Annotated[str | None, Query(max_length=256)] = None,
    at: FractionalTimestamp | None = None,
) -> dict[str, Any]:
    """All past, present and future prices; filters: `model`, and `at`, the time (seconds since 1970) of their validity."""
    listed = Prices(context_of(request).database).visible_to(caller, model=model, at=at)
    return {"object": "list", "data": [_serialize(price) for price in listed], "has_more": False}


def set_price(request: Request, caller: Writer, body: PriceBody) -> dict[str, Any]:
    """Set a price from now or a later time on; it ends the previous price."""
    new = NewPrice(
        model=body.model,
        prompt=nano_dollars(body.prompt, "prompt"),
        completion=nano_dollars(body.completion, "completion"),
        cached_prompt=None if body.cached_prompt is None else nano_dollars(body.cached_prompt, "cached_prompt"),
        request=nano_dollars(body.request, "request"),
        valid_from=body.valid_from,
        project_id=body.project_id,
        training=nano_dollars(body.training, "training"),
    )
    return _serialize(Prices(context_of(request).database).set(caller, new))


def list_charge_policies(request: Request, caller: Reader, after: Cursor = None, limit: Limit = 20) -> dict[str, Any]:
    """Past, present and future choices of what is charged where tokens and devices have a price. Without any: both."""
    found = ChargePolicies(context_of(request).database).page(after=after, limit=limit + 1)
    return list_response([_charge_policy(each) for each in found[:limit]], has_more=len(found) > limit)


def set_charge_policy(request: Request, caller: Writer, body: ChargePolicyBody) -> dict[str, Any]:
    """Choose what is charged from now or a later time on; it ends the previous choice."""
    policies = ChargePolicies(context_of(request).database)
    return _charge_policy(policies.set(caller, Charge(body.charge), valid_from=body.valid_from))


def list_compute_prices(
    request: Request,
    caller: Reader,
    device: Annotated[str | None, Query(max_length=128)] = None,
    after: Cursor = None,
    limit: Limit = 20,
) -> dict[str, Any]:
    """Past, present and future prices of compute; filter: `device`."""
    found = ComputePrices(context_of(request).database).page(device=device, after=after, limit=limit + 1)
    return list_response([compute_price_object(each) for each in found[:limit]], has_more=len(found) > limit)


def set_compute_price(request: Request, caller: Writer, body: ComputePriceBody) -> dict[str, Any]:
    """Set a price of compute from now or a later time on; it ends the previous price of the device."""
    price = ComputePrices(context_of(request).database).set(
        caller,
        body.device,
        gpu_hour=nano_dollars(body.gpu_hour, "gpu_hour"),
        core_hour=nano_dollars(body.core_hour, "core_hour"),
        gib_hour=nano_dollars(body.gib_hour, "gib_hour"),
        valid_from=body.valid_from,
    )
    return compute_price_object(price)


def _serialize(price: ListedPrice) -> dict[str, Any]:
    return {
        "object": "price",
        "id": price.id,
        "model": price.model,
        "project_id": price.project_id,
        "currency": "usd",
        "prompt": dollars(price.prompt),
        "cached_prompt": dollars(price.cached_prompt),
        "completion": dollars(price.completion),
        "request": dollars(price.request),
        "training": dollars(price.training),
        "valid_from": price.valid_from,
        "valid_to": price.valid_to,
        "created_at": price.created_at,
    }


def _charge_policy(policy: ChargePolicy) -> dict[str, Any]:
    return {"object": "charge_policy", **asdict(policy)}


handle = http_function(build)
