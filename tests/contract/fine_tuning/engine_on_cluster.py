"""The engine of tuned models on the test cluster, in a namespace of its own, made as an installed platform makes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from llmariner.context import Context
from llmariner.errors import Unavailable
from llmariner.fine_tuning.adapter_tokens import adapter_token
from llmariner.models.serving_lookup import RegistryModelLookup
from llmariner.platform.kube import Cluster
from llmariner.platform.serving import Phase, Status
from llmariner.platform.serving.kserve.adapter import KServeServing
from llmariner.settings import ClusterSettings, KServeSettings

from ..other_tests import kubectl as _kubectl
from ..other_tests import overlay as _overlay
from ..other_tests import places as _places

__all__ = ["Seen", "ask_model", "ask_tuned_model", "engine_namespace"]

CHECKOUT = Path(__file__).resolve().parents[3]
READY_SECONDS = 600.0
Body = dict[str, Any]
Seen = Callable[[], None]


def ask_tuned_model(context: Context, model: str, question: str, *, image: str, adapters_url: str) -> str:
    """What the engine of a tuned model answers, which is started for it."""
    with engine_namespace() as name:
        return ask_model(context, model, question, name, adapter_image=image, adapter_url=adapters_url)


def ask_model(
    context: Context, model: str, question: str, namespace: str, *, seen: Seen = lambda: None, **settings: Any
) -> str:
    """What the engine of a model answers, which is started for it in a namespace of `engine_namespace`.

    `seen` is called while it runs. `settings`: more of KServe's adapter.
    """
    chosen = KServeSettings(namespace=namespace, runtimes={"cpu": namespace}, cpu="450m", memory="3Gi", **settings)
    return asyncio.run(_ask(context, chosen, model, question, seen))


async def _ask(context: Context, settings: KServeSettings, model: str, question: str, seen: Seen) -> str:
    secret = context.secrets.of_links[0]
    lookup = RegistryModelLookup(context.registry, context.ledger, tokens=lambda each: adapter_token(secret, each))
    serving = KServeServing(Cluster(ClusterSettings.load(context.env)), settings, lookup)
    try:
        status = await _ready(serving, model)
        messages = [{"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 30}
        answer = await asyncio.to_thread(_post, f"{status.endpoint}/v1/chat/completions", body)
        await asyncio.to_thread(seen)
        return answer
    finally:
        await serving.close()


async def _ready(serving: KServeServing, model: str) -> Status:
    """Wake it as the Gateway does for a waiting request: again, where the cluster's API could not answer."""
    limit, status = time.monotonic() + READY_SECONDS, None
    while True:
        with contextlib.suppress(Unavailable):
            await serving.wake(model)
            status = await serving.status(model)
            assert status.phase is not Phase.FAILED, status
            if status.phase is Phase.READY:
                return status
        assert time.monotonic() < limit, status
        await asyncio.sleep(1)


def _post(url: str, body: Body) -> str:
    head = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


@contextlib.contextmanager
def engine_namespace() -> Iterator[str]:
    """A namespace with the volumes and the plugins of engines, and a runtime of that name."""
    lab, name = _places.chosen(), f"test-engines-{uuid.uuid4().hex[:6]}"
    runtime = _overlay.engine_runtime(name)
    plugins: Body = yaml.safe_load((CHECKOUT / "manifests/base/25-engine-plugins.yaml").read_text())
    plugins["metadata"] = {"name": plugins["metadata"]["name"], "namespace": name}
    folders = _overlay._folders()
    volumes: list[Body] = [made for each, folder in folders.items() for made in _overlay._volume(each, folder, name)]
    _kubectl.apply(lab, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
    try:
        _kubectl.apply(lab, [runtime, plugins, *volumes])
        yield name
    finally:
        claimed = [f"pv/{each['metadata']['name']}" for each in volumes if each["kind"] == "PersistentVolume"]
        for what in (f"ns/{name}", f"clusterservingruntime/{name}", *claimed):
            _kubectl.kubectl(lab, "delete", what, "--wait=false", "--ignore-not-found")
