"""The serving adapter of an installation with KServe."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from llmariner.environment import Environment
from llmariner.fine_tuning.adapter_tokens import adapter_token
from llmariner.inference_settings import InferenceSettings
from llmariner.job_settings import JobSettings
from llmariner.models.registry import ModelRegistry
from llmariner.models.serving_lookup import RegistryModelLookup
from llmariner.platform.kube import Cluster
from llmariner.platform.serving import Serving
from llmariner.platform.serving.kserve.adapter import KServeServing
from llmariner.settings import ClusterSettings, KServeSettings, Secret
from llmariner.usage.batch_writer import BatchWriter
from llmariner.usage.ledger import Ledger

__all__ = ["kserve_serving"]


def kserve_serving(
    env: Environment, registry: ModelRegistry, ledger: Ledger, writer: BatchWriter, secret: Secret
) -> Serving:
    """InferenceServices of the registry's models. `ledger` and `writer` say which of them are in use.

    `secret` signs the tokens by which engines fetch tuned adapters.
    """
    lookup = RegistryModelLookup(registry, ledger, writer.pending_models, partial(adapter_token, secret))
    url = InferenceSettings.load(env).url.replace("{function}", "fine-tuning-adapters")
    settings = replace(
        KServeSettings.load(env),
        adapter_image=JobSettings.load(env).training_image,
        adapter_url=f"{url}/v1/fine_tuning/adapters",
    )
    return KServeServing(Cluster(ClusterSettings.load(env)), settings, lookup)
