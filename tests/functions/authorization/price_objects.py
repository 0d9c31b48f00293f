"""Calls of the routes of prices, and of what workloads hold."""

from __future__ import annotations

from .objects import new, today
from .route_calls import CallFactory, no_object

__all__ = ["PRICE_OBJECTS"]

PRICE_OBJECTS: dict[str, CallFactory] = {
    "GET /v1/organization/usage/compute": today,
    "GET /v1/organization/usage/compute/allocations": no_object,
    "GET /v1/prices": no_object,
    "POST /v1/prices": new(model="walked", prompt=1, completion=1),
    "GET /v1/prices/charge": no_object,
    "POST /v1/prices/charge": new(charge="both"),
    "GET /v1/prices/compute": no_object,
    "POST /v1/prices/compute": new(device="walked", gpu_hour=1),
}
