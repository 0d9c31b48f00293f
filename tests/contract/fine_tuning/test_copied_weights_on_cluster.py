"""Training of a copied model on the test cluster: pods fetch it by the token of their job, and send a whole one back."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmariner.fine_tuning.job import FineTuningJob
from llmariner.models.model import NewModel, SourceRepository
from llmariner.platform.jobs.kubernetes.weights import WEIGHTS_CONTAINER
from llmariner.platform.kube.resources import PODS
from llmariner.platform.model_files.object_copy import download

from .training_on_cluster import TrainingPlatform, tiny_weights, training_platform

if TYPE_CHECKING:
    from standalone import model_server as _server
else:
    _server = importlib.import_module("...standalone.model_server", __package__)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

COPIED = "copied"
PART_BYTES = 4 << 20


def copy_into_store(platform: TrainingPlatform) -> None:
    """Register the model of the hub, which is copied."""
    made = platform.context.registry.create(NewModel(COPIED, SourceRepository.HUGGING_FACE, "org/tiny"))
    platform.load(made)
    assert platform.context.registry.get(COPIED).folder.startswith("model-copy://")


def test_pods_train_a_copied_model_and_send_a_whole_one_back_in_parts(tmp_path: Path) -> None:
    folder = tiny_weights(tmp_path)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with _server.running_server() as hub:
        hub.repositories = {"org/tiny": files}
        settings = {
            "HF_ENDPOINT": hub.url,
            "LLMARINER_MODEL_COPIES": "1",
            "LLMARINER_UPLOAD_PART_BYTES": str(PART_BYTES),
        }
        with training_platform(tmp_path, folder, memory_gib=1.0, pool="3300Mi", **settings) as platform:
            copy_into_store(platform)
            hub.repositories = {}  # nobody fetches from it any more
            adapter = platform.create(model=COPIED, epochs=2)
            whole = platform.create(model=COPIED, epochs=2, workers=2, training_type="full")
            seen: set[str] = set()

            def has_succeeded(job: FineTuningJob) -> bool:
                platform.context.fine_tuning.reconciler.reconcile(whole)
                for name in (*platform.pods(adapter), *platform.pods(whole)):
                    if (pod := platform.cluster.get(PODS, platform.namespace, name)) is not None:
                        seen.update(each["name"] for each in pod["spec"].get("initContainers", ()))
                return job.status == "succeeded"

            platform.until(adapter, has_succeeded)
            done = platform.until(whole, lambda job: job.status == "succeeded")
            assert seen == {WEIGHTS_CONTAINER}
            assert len(platform.losses(adapter)) == len(platform.losses(whole)) == 6
            assert platform.charged(done.output_model) == done.trained_tokens == done.estimated_tokens
            model = platform.context.registry.get(done.output_model, project_id=platform.owner.project_id)
            assert model.folder.startswith("model-copy://")
            download(model.folder, tmp_path / "whole", platform.context.objects)
            platform.until_nothing_is_left(adapter, whole)
    for path in (tmp_path / "whole").iterdir():
        assert (path.read_bytes() == files[path.name]) is (path.name != "model.safetensors"), path.name
        assert path.stat().st_size == len(files[path.name])
