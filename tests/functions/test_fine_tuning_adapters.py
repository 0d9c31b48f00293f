"""/v1/fine_tuning/adapters: what the first container of an engine's pod fetches of tuned models, with their tokens alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llmariner.context import Context
from llmariner.fine_tuning.adapter_tokens import adapter_token
from llmariner.models.model import Model, NewModel, SourceRepository, Task
from llmariner.models.serving_lookup import RegistryModelLookup
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.adapter_fetch import adapter_tokens
from llmariner.platform.serving.kserve.objects import inference_service
from llmariner.settings import KServeSettings, Secret
from llmariner.tenancy.principal import KeyOwner

from .http_calls import HttpRequest, HttpResponse, assert_error, send_over_http
from .served_function import served_function
from .tuned_models import WEIGHTS, token_of, tuned_model


@dataclass
class Served:
    """The function in a process of its own, and the platform behind it."""

    context: Context
    port: int
    owner: KeyOwner

    def tuned(self, name: str, content: bytes = WEIGHTS) -> Model:
        """A model that a job made, loaded as on a cluster."""
        return tuned_model(self.context, self.owner, name, "smol", content)

    def engine(self, model: Model) -> EngineModel:
        """The model as the adapter that serves it has it."""
        lookup = RegistryModelLookup(self.context.registry, self.context.ledger, tokens=self.token)
        return lookup._find(model.id)

    def token(self, model: Model) -> str:
        return token_of(self.context, model)

    def get(self, name: str, token: str) -> HttpResponse:
        head = {"authorization": f"Bearer {token}"}
        return send_over_http(self.port, HttpRequest("GET", f"/v1/fine_tuning/adapters/{name}", None, head))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_function("fine_tuning_adapters", tmp_path_factory.mktemp("adapters")) as (context, port, owner):
        context.registry.create(NewModel("smol", SourceRepository.OBJECT_STORE, "pvc://models/smol"))
        context.registry.mark_loaded("smol", folder="pvc://models/smol", size_bytes=0, task=Task.GENERATE)
        yield Served(context, port, owner)


def fetch(adapters: list[EngineModel], url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the first container of an engine with these adapters here."""
    base = EngineModel("smol", "pvc://models/smol", "generate", 0)
    settings = KServeSettings(adapter_image="llmariner/engine:1", adapter_url=url)
    predictor = inference_service(base, tuple(adapters), settings)["spec"]["predictor"]
    (container,) = predictor["initContainers"]
    assert predictor["model"]["storageUri"] == "pvc://models/smol"
    environment = {each["name"]: each["value"] for each in container["env"]}
    tokens = folder.with_name("tokens")
    tokens.write_text(json.dumps(adapter_tokens(adapters)).replace("/mnt/tuned", str(folder)))
    environment["ADAPTERS_FILE"] = str(tokens)
    command = [sys.executable, *container["command"][1:]]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_an_engine_fetches_its_adapters_as_it_loads_them(served: Served, tmp_path: Path) -> None:
    engines = [served.engine(served.tuned(name)) for name in ("ft:smol:a", "ft:smol:b")]
    done = fetch(engines, f"http://127.0.0.1:{served.port}/v1/fine_tuning/adapters", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert (folder / "adapter_model.safetensors").read_bytes() == WEIGHTS
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["base_model_name_or_path"]) == (8, "smol")


def test_an_engine_says_why_it_has_no_adapter(served: Served, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{served.port}/v1/fine_tuning/adapters"
    done = fetch([served.engine(served.tuned("ft:smol:broken", b"no tensors"))], url, tmp_path)
    assert done.returncode == 1
    assert "no adapter that engines load" in done.stderr


def test_a_token_opens_its_model_alone_as_long_as_it_is_registered(served: Served) -> None:
    model = served.tuned("ft:smol:gone")
    token = served.token(model)
    assert token == served.token(model), "an engine is not changed for another token"
    assert served.get("adapter_config.json", token).status == 200
    assert served.get("other.json", token).status == 400
    for wrong in ("", "guess", token[:-2], adapter_token(Secret("x" * 64), model)):
        assert_error(served.get("adapter_config.json", wrong), 401, code="invalid_api_key")
    served.context.registry.delete(model.name, project_id=model.project_id)
    assert_error(served.get("adapter_config.json", token), 404, code="not_found")
    assert served.token(replace(model, created_at=model.created_at + 1)) != token, (
        "another model of that name has another"
    )


def test_a_model_of_a_project_itself_gets_no_token(served: Served) -> None:
    model = served.tuned("ft:smol:theirs")
    assert not served.token(replace(model, approved=False))
    assert not served.token(replace(model, folder="s3://bucket/adapter"))


def test_without_an_image_a_tuned_model_says_what_is_missing(served: Served) -> None:
    base, tuned = EngineModel("smol", "pvc://models/smol", "generate", 0), served.engine(served.tuned("ft:smol:c"))
    with pytest.raises(ValueError, match="LLMARINER_TRAINING_IMAGE"):
        inference_service(base, (tuned,), KServeSettings())


def test_adapters_of_both_kinds_share_an_engine(served: Served) -> None:
    base, tuned = EngineModel("smol", "pvc://models/smol", "generate", 0), served.engine(served.tuned("ft:smol:d"))
    other = EngineModel("ft:smol:s3", "s3://bucket/x", "generate", 0, base="smol")
    made: dict[str, Any] = inference_service(base, (tuned, other), KServeSettings(adapter_image="llmariner/engine:1"))
    predictor = made["spec"]["predictor"]
    assert [each["uri"] for each in predictor["storageUris"]] == ["pvc://models/smol", "s3://bucket/x"]
    paths = [each.partition("=")[2] for each in predictor["model"]["args"][-2:]]
    assert [each.rpartition("/")[0] for each in paths] == ["/mnt/tuned", "/mnt/adapters"]
    assert predictor["model"]["volumeMounts"][-1] == {"name": "adapters", "mountPath": "/mnt/tuned", "readOnly": True}
