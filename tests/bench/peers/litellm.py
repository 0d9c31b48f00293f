"""LiteLLM's proxy: the Python gateway most people would take instead. One worker, a master key, no database."""

from __future__ import annotations

import secrets

from ..children import free_port
from ..environments import environment
from ..target import MODEL, Site, Target

PIN = "litellm[proxy]==1.108.7"
CONFIGURATION = """
model_list:
- model_name: {model}
  litellm_params:
    model: hosted_vllm/{model}
    api_base: http://127.0.0.1:{engine}/v1
    api_key: unused
general_settings:
  master_key: {key}
litellm_settings:
  telemetry: false
"""


def target(site: Site) -> Target:
    program = environment(PIN) / "litellm"
    port, key = free_port(), f"sk-{secrets.token_hex(16)}"
    configuration = site.folder / "litellm.yaml"
    configuration.write_text(CONFIGURATION.format(model=MODEL, engine=site.engine_port, key=key))
    flags = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    # Without these it fetches a price list at start and prints a banner per request.
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command = [str(program), "--config", str(configuration), *flags]
    return Target("litellm", command, port, quiet, {"authorization": f"Bearer {key}"})
