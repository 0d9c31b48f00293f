"""Modules of other folders of tests, which pytest has in one package with this one, and mypy each by itself."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.lab import images, kubectl, places, processes
    from cluster.platform import overlay
    from cluster.scenarios import fault_injection, relay
    from standalone import model_server
else:
    images, kubectl, places, processes, overlay, fault_injection, relay, model_server = (
        importlib.import_module(f"..{name}", __package__)
        for name in (
            *(f"cluster.lab.{each}" for each in ("images", "kubectl", "places", "processes")),
            "cluster.platform.overlay",
            *(f"cluster.scenarios.{each}" for each in ("fault_injection", "relay")),
            "standalone.model_server",
        )
    )

__all__ = ["fault_injection", "images", "kubectl", "model_server", "overlay", "places", "processes", "relay"]
