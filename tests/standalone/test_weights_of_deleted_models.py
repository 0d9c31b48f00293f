"""Weights of a model that is deleted during their download are removed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from llmariner.context import Context
from llmariner.models.model import Model, NewModel, SourceRepository
from llmariner.models.weights import FetchedWeights, ReportProgress
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events.cloudevents import Event
from llmariner.settings import ModelSettings
from llmariner.standalone.platform import checkout_root
from llmariner.standalone.weights import LocalWeights

from .model_server import running_server
from .script_environment import no_file, script_environment
from .tiny_model_files import CONFIG, safetensors


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    made = Context({"LLMARINER_DATABASE_URL": f"sqlite:///{tmp_path / 'platform.db'}"})
    upgrade(made.database)
    yield made
    made.database.close()


def load(context: Context, model: Model) -> None:
    """What the consumer does about a model that was registered."""
    spec = spec_from_file_location("model_loader", checkout_root() / "eventing/model_loader/main.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    event = Event("evt_1", "ai.llmariner.model.created.v1", f"models/{model.id}", 1.5, {"id": model.id})
    module.consume(context, event)


@pytest.mark.parametrize("deleted", [False, True])
def test_weights_are_stored_only_for_an_existing_model(deleted: bool, context: Context, tmp_path: Path) -> None:
    class Deleting(LocalWeights):
        def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
            fetched = super().fetch(model, report)
            if deleted:
                context.registry.delete(model.id, project_id=None)
            return fetched

    with running_server() as server:
        server.repositories["org/repository"] = {"config.json": CONFIG, "model.safetensors": safetensors()}
        settings = ModelSettings(hub=server.url)
        context.weights = Deleting(tmp_path / "models", script_environment(tmp_path), no_file, settings)
        model = context.registry.create(NewModel("m", SourceRepository.HUGGING_FACE, "org/repository"))
        load(context, model)
    assert len(list((tmp_path / "models").glob("m-*"))) == (0 if deleted else 1)
    assert len(list((tmp_path / "models" / "blobs").glob("sha256-*"))) == (0 if deleted else 2)
    if not deleted:
        assert context.registry.get("m").loaded
