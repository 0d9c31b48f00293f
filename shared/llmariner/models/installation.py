"""The serving adapter of an installation with KServe."""

from __future__ import annotations

from llmariner.environment import Environment
from llmariner.models.registry import ModelRegistry
from llmariner.models.serving_lookup import RegistryModelLookup
from llmariner.platform.kube import Cluster
from llmariner.platform.serving import Serving
from llmariner.platform.serving.kserve.adapter import KServeServing
from llmariner.settings import ClusterSettings, KServeSettings
from llmariner.usage.batch_writer import BatchWriter
from llmariner.usage.ledger import Ledger

__all__ = ["kserve_serving"]


def kserve_serving(env: Environment, registry: ModelRegistry, ledger: Ledger, writer: BatchWriter) -> Serving:
    """InferenceServices of the registry's models. `ledger` and `writer` say which of them are in use."""
    lookup = RegistryModelLookup(registry, ledger, writer.pending_models)
    return KServeServing(Cluster(ClusterSettings.load(env)), KServeSettings.load(env), lookup)
