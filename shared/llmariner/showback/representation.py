"""The API's JSON of compute: usage results and prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmariner.platform.serving import served_name
from llmariner.showback.prices import ComputePrice
from llmariner.showback.reports import DIMENSIONS
from llmariner.showback.utilization import Use
from llmariner.usage.prices import NANO_PER_DOLLAR, dollars

__all__ = ["compute_price_object", "compute_result"]


def compute_result(row: Mapping[str, Any], groups: tuple[str, ...]) -> dict[str, Any]:
    """A result of a bucket: seconds of GPUs and cores, GiB-seconds of memory, and what they cost. Null: not grouped by.

    Of what nobody in particular held, the ids are null, too.
    """
    shown = {name: (row[name] or None) if name in groups else None for name in DIMENSIONS}
    if shown["workload_id"] is not None:
        shown["workload_id"] = served_name(shown["workload_id"])
    return {
        "object": "organization.usage.compute.result",
        "gpu_seconds": row["gpu_ms"] / 1000,
        "core_seconds": row["millicore_ms"] / 1e6,
        "memory_gib_seconds": row["mib_ms"] / 1024 / 1000,
        "num_workloads": row["workloads"],
        "amount": {"value": row["cost"] / NANO_PER_DOLLAR, "currency": "usd"},
        **_use(row["use"]),
        **shown,
    }


def _use(use: Use) -> dict[str, float]:
    """Seconds of which the use was measured, and its shares of them. What was not measured has no fields."""
    shown = {}
    if use.gpu_measured:
        shown["gpu_measured_seconds"] = use.gpu_measured / 1000
        shown["gpu_utilization"] = round(use.gpu_busy / use.gpu_measured, 6)
        shown["gpu_idle_share"] = round(use.gpu_idle / use.gpu_measured, 6)
    if use.core_measured:
        shown["core_measured_seconds"] = use.core_measured / 1e6
        shown["core_utilization"] = round(use.core_busy / use.core_measured, 6)
    return shown


def compute_price_object(price: ComputePrice) -> dict[str, Any]:
    """A price, in US dollars per hour."""
    return {
        "object": "compute_price",
        "id": price.id,
        "device": price.device,
        "currency": "usd",
        "gpu_hour": dollars(price.gpu_hour),
        "core_hour": dollars(price.core_hour),
        "gib_hour": dollars(price.gib_hour),
        "valid_from": price.valid_from,
        "valid_to": price.valid_to,
        "created_at": price.created_at,
    }
