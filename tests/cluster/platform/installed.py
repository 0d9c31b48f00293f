"""Installs the platform on the test cluster by the manifests that operators use; its addresses."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmariner.manifests.installation import MODELS_NAMESPACE, NAMESPACE
from llmariner.platform.serving.kserve.objects import model_id_of
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.progress import Step

from ..lab.images import load, present
from ..lab.kubectl import get, kubectl
from ..lab.places import Lab, cache
from ..lab.wait import LabError, until
from .database_images import pgbouncer, postgres
from .overlay import CHECKOUT, MODELS, write

__all__ = ["TOKEN_PATH", "Installed", "apply_manifests", "install", "uninstall"]

TOKEN_PATH = ("chat-completions", "completions", "embeddings", "rerank", "tokenize", "detokenize")
_IMAGE_SECONDS = 1800
_READY_SECONDS = 600


@dataclass(frozen=True)
class Installed:
    """The platform as its users meet it."""

    lab: Lab

    @property
    def address(self) -> str:
        """The Gateway's address, from its status."""
        gateway = get(self.lab, "gateway.gateway.networking.k8s.io", "llmariner", "-n", "llmariner-gateway")
        addresses = gateway.get("status", {}).get("addresses")
        if not addresses:
            raise LabError("The platform's Gateway has no address; `python -m tests.cluster.platform up` installs it")
        return str(addresses[0]["value"])

    @property
    def base_url(self) -> str:
        """By the Gateway."""
        return f"http://{self.address}/v1"

    @property
    def database_url(self) -> str:
        """As functions have it, with the address of the Service in place of its name."""
        secret = get(self.lab, "secret", "llmariner-database", "-n", NAMESPACE)
        url = base64.b64decode(secret["data"]["LLMARINER_DATABASE_URL"]).decode()
        service = get(self.lab, "service", "pgbouncer", "-n", NAMESPACE)
        return re.sub(r"@pgbouncer[^:/]*", f"@{service['spec']['clusterIP']}", url)

    def engine_url(self, model: str) -> str:
        """One engine of a model that is awake."""
        pods = self.engine_pods(model)
        assert pods, f"{model} has no engine"
        return f"http://{pods[0]['status']['podIP']}:8080"

    def engine_pods(self, model: str) -> list[dict[str, Any]]:
        """The pods of a model's engines that answer."""
        services = get(self.lab, "inferenceservices", "-n", MODELS_NAMESPACE)["items"]
        names = [s["metadata"]["name"] for s in services if model_id_of(s) == model]
        pods = get(self.lab, "pods", "-n", MODELS_NAMESPACE)["items"]
        of_it = [p for p in pods if p["metadata"]["labels"].get("serving.kserve.io/inferenceservice") in names]
        return [p for p in of_it if _is(p, "Ready") and "deletionTimestamp" not in p["metadata"]]

    def token_path_pods(self) -> list[dict[str, Any]]:
        """Copies of the functions that relay tokens."""
        selector = f"serving.knative.dev/service in ({','.join(TOKEN_PATH)})"
        pods = get(self.lab, "pods", "-n", NAMESPACE, "-l", selector)["items"]
        return [pod for pod in pods if _is(pod, "Ready")]

    def call(self, method: str, path: str, body: Any = None, *, seconds: float = 120) -> tuple[int, Any]:
        """(status, JSON) of a call to the API as the administrator; of what is no JSON, as {"error": {"message": text}}."""
        head = {"authorization": f"Bearer {self.api_key}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base_url}{path}", data, head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, _decoded(error.read())

    def register_models(self) -> None:
        """This machine's models, under the ids that they have on one machine."""
        for folder in sorted((StandaloneSettings.load(environment()).cache / "models").iterdir()):
            self.register(folder.name.rpartition("-")[0], folder.name)

    def register(self, model_id: str, folder: str, *, cluster_ids: Sequence[str] = ()) -> None:
        """A model whose weights are in a folder of the models' volume; waits until it is there.

        `cluster_ids`: the worker clusters on which alone it may run; such a model must be new.
        """
        placed = {"enable_on_demand_allocation": True, "allowed_cluster_ids": list(cluster_ids)}
        task = "embed" if "minilm" in folder else "generate"
        body = {
            "id": model_id,
            "source_repository": "OBJECT_STORE",
            "model_file_location": f"pvc://{MODELS}/{folder}",
            "task": task,
            "config": {
                "runtime_config": {"resources": {"gpu": 0}},
                **({"cluster_allocation_policy": placed} if cluster_ids else {}),
            },
        }
        status, answer = self.call("POST", "/models", body)
        assert status == 200 or (status == 409 and not cluster_ids), answer
        until(f"model {model_id}", lambda: self._not_loaded(model_id), seconds=180)

    def _not_loaded(self, model_id: str) -> str | None:
        status, answer = self.call("GET", f"/models/{model_id}?include_loading_model=true")
        state = answer.get("loading_status", f"HTTP {status}")
        return None if state == "MODEL_LOADING_STATUS_SUCCEEDED" else str(state)

    @property
    def api_key(self) -> str:
        """The administrator's first key, as the operator reads it."""
        secret = get(self.lab, "secret", "llmariner-admin-key", "-n", NAMESPACE)
        return base64.b64decode(secret["data"]["key"]).decode()

    def summary(self) -> str:
        """A few lines for people."""
        return f"  base URL  {self.base_url}\n  API key   {self.api_key}"


def _decoded(body: bytes) -> Any:
    """While a function is unavailable, the proxy in front of it answers, in its own format."""
    try:
        return json.loads(body or b"{}")
    except json.JSONDecodeError:
        return {"error": {"message": body.decode(errors="replace")}}


def install(lab: Lab) -> None:
    """Images, then the manifests."""
    _load_images(lab)
    apply_manifests(lab)


def apply_manifests(lab: Lab) -> None:
    """Prerequisites, overlay; then wait until every function was ready once."""
    kubectl(lab, "apply", "--server-side", "--force-conflicts", "-f", CHECKOUT / "manifests" / "prerequisites")
    overlay = write(lab.folder / "overlay")
    with Step("the overlay"):
        kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", overlay, seconds=300)
    for job in ("secrets", "migrations"):
        until(f"job {job}", lambda job=job: _job_left(lab, job), seconds=_READY_SECONDS)  # type: ignore[misc]
    until("functions", lambda: _not_ready(lab, "services.serving.knative.dev"), seconds=_READY_SECONDS, pause=2)
    until("triggers", lambda: _not_ready(lab, "triggers.eventing.knative.dev"), seconds=_READY_SECONDS, pause=2)


def uninstall(lab: Lab) -> None:
    """As docs/install-cluster.md says it: the models first, then what the overlay brought."""
    kubectl(lab, "delete", "inferenceservices", "--all", "-n", MODELS_NAMESPACE, "--ignore-not-found", seconds=300)
    kubectl(lab, "delete", "--ignore-not-found", "--wait", "-k", write(lab.folder / "overlay"), seconds=600)


def _load_images(lab: Lab) -> None:
    archives = cache() / f"platform-images{lab.number or ''}"
    archives.mkdir(parents=True, exist_ok=True)
    with Step("images of the platform"):
        command = ["nice", sys.executable, "-m", "images.build", "--archives", str(archives)]
        done = subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, timeout=_IMAGE_SECONDS, check=False
        )
        if done.returncode:
            raise LabError(f"make images failed:\n{(done.stderr or done.stdout)[-2000:]}")
    with Step("images into the node"):
        for archive in sorted(archives.glob("*.tar")):
            load(lab, archive)
        there = present(lab)
        for image in (postgres(), pgbouncer()):
            if image.name not in there:
                _load_one(lab, image, archives / "database.part")


def _load_one(lab: Lab, image: Any, scratch: Path) -> None:
    image.write(scratch)
    load(lab, scratch)
    scratch.unlink()


def _job_left(lab: Lab, name: str) -> str | None:
    jobs = get(lab, "jobs", "-n", NAMESPACE, "-l", f"app.kubernetes.io/name={name}")["items"]
    if not jobs:
        return "the Job is not there"
    status = jobs[-1].get("status", {})
    return None if status.get("succeeded") else f"failed {status.get('failed', 0)} times so far"


def _is(body: dict[str, Any], kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in body.get("status", {}).get("conditions", ()))


def _not_ready(lab: Lab, kind: str) -> str | None:
    """The objects of a kind that are not ready, with their reasons."""
    left = []
    for each in get(lab, kind, "-n", NAMESPACE)["items"]:
        ready: dict[str, Any] = next(
            (c for c in each.get("status", {}).get("conditions", ()) if c["type"] == "Ready"), {}
        )
        if ready.get("status") != "True":
            left.append(f"{each['metadata']['name']} ({ready.get('reason', 'unknown')})")
    return ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "") if left else None
