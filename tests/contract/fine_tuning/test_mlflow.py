"""Jobs whose metrics go to MLflow's own server."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.fine_tuning.integrations import Integration
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.representation import job_object
from llmariner.platform.database import Database
from llmariner.platform.trackers import NewRun, Outcome, Point
from llmariner.platform.trackers.mlflow import Mlflow
from llmariner.tenancy.principal import KeyOwner
from llmariner.tracking_settings import TrackingSettings

from .mlflow_server import MlflowServer, running_mlflow
from .training_desk import TrainingDesk, step

_HEADER = json.dumps(
    {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight": {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [0, 0],
        }
        for half, shape in (("A", [8, 64]), ("B", [64, 8]))
    }
).encode()
ADAPTER = struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(70_000)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path, mlflow: MlflowServer) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path, TrackingSettings(mlflow_servers=(mlflow.url,)))


def integration(experiment: str, **settings: Any) -> Integration:
    return Integration("mlflow", {"experiment": experiment, **settings})


def tags_of(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


def test_a_job_is_a_run_with_parameters_metrics_and_its_adapter(desk: TrainingDesk, mlflow: MlflowServer) -> None:
    name = f"pirates of {desk.project_id}"
    said = integration(name, run_name="first", tags={"team": "ä"}, tracking_uri=mlflow.url + "/")
    job_id = desk.training(integrations=(said,), seed=7, suffix="arr")
    desk.tuning.tracked_runs.send(job_id)
    (run,) = mlflow.runs(name)
    run_id = run["info"]["run_id"]
    assert (run["info"]["run_name"], run["info"]["status"]) == ("first", "RUNNING")
    assert tags_of(run).items() >= {"team": "ä", "llmariner.run": f"{job_id}-0"}.items()
    parameters = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert parameters.items() >= {"model": "smol", "seed": "7", "suffix": "arr", "n_epochs": "2"}.items()
    desk.report(job_id, 1, step(1), step(2))
    desk.tuning.tracked_runs.send(job_id)
    desk.tuning.tracked_runs.send(job_id)
    desk.report(job_id, 1, step(2, train_loss=9.0), step(3))  # a resumed job reports a step again
    desk.tuning.tracked_runs.send(job_id)
    assert mlflow.steps(run_id, "train_loss") == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    assert desk.finish(job_id, adapter_content=ADAPTER).status is Status.SUCCEEDED
    desk.tuning.tracked_runs.send(job_id)
    (run,) = mlflow.runs(name)
    assert (run["info"]["run_id"], run["info"]["status"]) == (run_id, "FINISHED")
    assert [number for number, _ in mlflow.steps(run_id, "learning_rate")] == [1, 2, 3, 6]
    assert mlflow.artifact(run, "adapter/adapter_model.safetensors") == ADAPTER
    assert json.loads(mlflow.artifact(run, "adapter/adapter_config.json"))["r"] == 8
    url = f"{mlflow.url}/#/experiments/{run['info']['experiment_id']}/runs/{run_id}"
    events, _ = desk.history.events(desk.project_id, job_id, after=None, limit=100)
    (shown_run,) = [event for event in events if "Run of" in event.message]
    assert (shown_run.message, shown_run.data) == (
        f"Run of 'mlflow' created: {url}",
        {"integration": "mlflow", "run_id": run_id, "url": url},
    )
    assert not [event for event in events if event.level == "warn"]
    shown = {"experiment": name, "run_name": "first", "tags": {"team": "ä"}, "tracking_uri": mlflow.url + "/"}
    assert job_object(desk.get(job_id))["integrations"] == [{"type": "mlflow", "mlflow": shown}]


def test_a_run_ends_as_its_job_does(desk: TrainingDesk, mlflow: MlflowServer) -> None:
    tracking, name = desk.tuning.tracked_runs, f"ends of {desk.project_id}"
    cancelled, failed = (desk.training(integrations=(integration(name, run_name=each),)) for each in ("c", "f"))
    for job_id in (cancelled, failed):
        tracking.send(job_id)
    desk.jobs.cancel(desk.caller, cancelled)
    desk.report(failed, 1, step(1), {"type": "failed", "message": "The loss is no number."})
    early = desk.start(integrations=(integration(name, run_name="early"),))
    desk.jobs.cancel(desk.caller, early)
    for job_id in (cancelled, failed, early):
        tracking.send(job_id)
    ends = {run["info"]["run_name"]: run["info"]["status"] for run in mlflow.runs(name)}
    assert ends == {"c": "KILLED", "f": "FAILED"}, "a job that never trained has no run"


def test_calls_may_be_repeated(mlflow: MlflowServer) -> None:
    """A process that was killed after a call, before it recorded it, makes the call again."""
    server = Mlflow(mlflow.url, None)
    new = NewRun("ftjob-x-0", "repeated", "r", 1_760_000_000.0, parameters={"seed": 1})
    run, again = server.begin(new), server.begin(new)
    assert run == again
    points = [Point(0, 1, 1_760_000_001.5, {"train_loss": 2.0}), Point(1, 2, 1_760_000_002.5, {"train_loss": 1.0})]
    for sent in (points, points, points[1:]):
        server.log(run, sent)
    assert mlflow.steps(run.id, "train_loss") == [(1, 2.0), (2, 1.0)]
    for _ in range(2):
        server.upload(run, "adapter/a b.txt", 3, [b"ab", b"c"])
        server.end(run, Outcome.FINISHED, 1_760_000_003.0, 2)
    (found,) = mlflow.runs("repeated")
    assert (found["info"]["status"], found["info"]["end_time"]) == ("FINISHED", 1_760_000_003_000)
    assert mlflow.artifact(found, "adapter/a%20b.txt") == b"abc"
