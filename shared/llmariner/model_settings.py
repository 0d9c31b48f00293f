"""Settings of the model registry and of the repositories that model files are fetched from. See `settings`."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmariner.environment import Environment, Secret, read_http_url, read_secret
from llmariner.weight_locations import validate_locations

__all__ = ["ModelSettings"]


@dataclass(frozen=True)
class ModelSettings:
    """What projects may do with models without an administrator, and where model files are fetched from."""

    locations: tuple[str, ...] = ("hf://", "ollama://")
    """`LLMARINER_MODEL_LOCATIONS`: prefixes of allowed weight locations, separated by commas; `${project_id}` is
    the project's id."""

    hub: str = "https://huggingface.co"
    """`HF_ENDPOINT`: URL of the Hugging Face Hub or of a mirror."""

    hub_token: Secret = field(default_factory=lambda: Secret(""))
    """`HF_TOKEN` or `HF_TOKEN_FILE`: token of the hub, for private and gated repositories."""

    ollama_registry: str = "https://registry.ollama.ai"
    """`LLMARINER_OLLAMA_REGISTRY`: URL of the Ollama registry."""

    private_addresses: bool = False
    """`LLMARINER_MODEL_PRIVATE_ADDRESSES`: 1: repositories may redirect to private addresses."""

    inspection: bool = False
    """`LLMARINER_MODEL_INSPECTION`: 1: on a cluster, `model_loader` looks at repositories of the hub before engines
    fetch them."""

    copies: bool = False
    """`LLMARINER_MODEL_COPIES`: 1: on a cluster, models of hubs and buckets are copied into the object store, which engines
    then read."""

    pickles: bool = False
    """`LLMARINER_MODEL_PICKLES`: 1: weights may be pickles, which run code when an engine loads them."""

    @classmethod
    def load(cls, env: Environment) -> ModelSettings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
        return cls(
            locations=_model_locations(env.get("LLMARINER_MODEL_LOCATIONS")),
            hub=read_http_url(env, "HF_ENDPOINT") or cls.hub,
            hub_token=read_secret(env, "HF_TOKEN"),
            ollama_registry=read_http_url(env, "LLMARINER_OLLAMA_REGISTRY") or cls.ollama_registry,
            private_addresses=env.get("LLMARINER_MODEL_PRIVATE_ADDRESSES", "0") == "1",
            inspection=env.get("LLMARINER_MODEL_INSPECTION", "0") == "1",
            copies=env.get("LLMARINER_MODEL_COPIES", "0") == "1",
            pickles=env.get("LLMARINER_MODEL_PICKLES", "0") == "1",
        )


def _model_locations(value: str | None) -> tuple[str, ...]:
    if value is None:
        return ModelSettings.locations
    try:
        return validate_locations([each.strip() for each in value.split(",") if each.strip()])
    except ValueError as error:
        raise ValueError(f"LLMARINER_MODEL_LOCATIONS: {error}") from error
