"""The serving adapter of an installation that may have worker clusters, put together of its parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmariner.cached_once import cached_once
from llmariner.clusters.placement import Policy
from llmariner.gateway.engine_tunnel import engine_tunnel
from llmariner.http_client import Client
from llmariner.inference_settings import InferenceSettings
from llmariner.models.placements import ModelPlacements
from llmariner.models.serving_lookup import RegistryModelLookup
from llmariner.models.worker_lookup import WorkerModelLookup
from llmariner.platform.serving import Serving
from llmariner.platform.serving.placed.adapter import PlacedServing
from llmariner.settings import KServeSettings, Secret

if TYPE_CHECKING:
    from llmariner.context import Context
    from llmariner.platform.serving.kserve.adapter import KServeServing

__all__ = ["placed_serving"]

_ACCELERATORS = {"nvidia.com/gpu": "nvidia", "amd.com/gpu": "amd", "habana.ai/gaudi": "intel-gaudi"}


def placed_serving(context: Context, home: Serving) -> PlacedServing:
    """`home`: the adapter of the control plane's own cluster or machine."""
    clusters = context.clusters
    lookup = RegistryModelLookup(context.registry, context.ledger, context.batch_writer.pending_models)
    placements = ModelPlacements(
        context.database, lambda: clusters.statuses, Policy(clusters.settings.placement_policy)
    )
    workers = _Workers(context, lookup)
    return PlacedServing(home, placements, lookup, workers.make, spill_seconds=clusters.settings.spill_seconds)


class _Workers:
    """Makes the adapters of worker clusters. The Kubernetes client is imported for the first one."""

    def __init__(self, context: Context, lookup: RegistryModelLookup) -> None:
        self._context = context
        self._lookup = WorkerModelLookup(lookup)

    @cached_once
    def _settings(self) -> KServeSettings:
        # No standby engines there: their token and their roles are the home cluster's.
        return replace(KServeSettings.load(self._context.env), standby_token=Secret(""), prometheus="")

    def make(self, cluster_id: str) -> KServeServing:
        """The adapter of a cluster. Blocks. Its engines run on the kind of GPU that most of its GPUs are."""
        from llmariner.platform.serving.kserve.adapter import KServeServing
        from llmariner.platform.serving.kserve.addresses import TunnelAddresses

        tunnel = engine_tunnel(InferenceSettings.load(self._context.env).url, self._context.secrets.service)
        accelerator = self._accelerator(cluster_id)
        # As of jobs: pools there have the names of the platform's own, and where there is none, engines start at once.
        settings = replace(self._settings, accelerator=accelerator, queue=accelerator, queue_is_optional=True)
        return KServeServing(
            self._context.clusters.remote.connection_to(cluster_id),
            settings,
            self._lookup,
            addresses=TunnelAddresses(cluster_id),
            client=Client(tunnel=tunnel),
        )

    def _accelerator(self, cluster_id: str) -> str:
        status = self._context.clusters.statuses.of([cluster_id]).get(cluster_id)
        products = () if status is None or status.inventory is None else status.inventory.products
        most = max((each for each in products if each.gpus), key=lambda each: each.gpus, default=None)
        return "cpu" if most is None else _ACCELERATORS.get(most.gpu_resource, "cpu")
