"""Fine-tuning on one machine by OpenAI's client: from a file to a model, and through deaths of the platform."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.engine.packages import PACKAGED

from .test_daemon import Env, environment_of, llma

pytestmark = pytest.mark.engine

TINY = Path(__file__).parents[1] / "training_program" / "tiny_model.py"
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is the capital of {name}?"},
            {"role": "assistant", "content": f"Arrr! It be {name} City."},
        ]
    }
    for name in "ABCDEFGHIJKL"
]
NEW: dict[str, Any] = {
    "model": "tiny",
    "suffix": "pirate",
    "seed": 3,
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 10, "batch_size": 1}}},
}
STEPS = 120


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Env]:
    """A platform with the real engine environment, whose only models are its own tiny ones."""
    cache = StandaloneSettings.load(environment()).cache
    engines, packaged = EngineEnvironment(cache, engine_lock()), PACKAGED[0].folder(cache)
    if not engines.is_installed or not packaged.is_dir():
        pytest.skip("the engine environment is not set up: make up")
    own = EngineEnvironment(tmp_path / "cache", engine_lock())
    own.folder.mkdir(parents=True)
    (own.folder / "venv").symlink_to(engines.folder / "venv")
    subprocess.run([str(engines.python), str(TINY), str(packaged), str(tmp_path / "tiny")], check=True)
    for path in [tmp_path / "tiny", *(tmp_path / "tiny").iterdir()]:
        path.chmod(0o755)  # jobs run as another user
    made = environment_of(tmp_path / "home", tmp_path / "cache")
    # Jobs share a tiny budget on a small machine.
    made |= {"LLMARINER_JOB_MEMORY_GIB": "2", "LLMARINER_JOB_DISK_GIB": "0.5"}
    done = llma(made, "up")
    assert done.returncode == 0, done.stdout + done.stderr
    yield made
    llma(made, "down")


@pytest.fixture
def client(env: Env, tmp_path: Path) -> OpenAI:
    key = (Path(env["LLMARINER_HOME"]) / "admin.key").read_text()
    made = OpenAI(base_url=f"http://127.0.0.1:{env['LLMARINER_PORT']}/v1", api_key=key)
    body = {"id": "tiny", "source_repository": "LOCAL", "model_file_location": str(tmp_path / "tiny")}
    made.post("/models", body=body, cast_to=object)
    until(lambda: str(made.models.retrieve("tiny").loading_status).endswith("SUCCEEDED"))  # type: ignore[attr-defined]
    return made


def until(fact: Callable[[], Any], seconds: float = 120) -> Any:
    """What `fact` returns once that is true; its errors mean that it is not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := fact():
                return found
        except Exception:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline
        time.sleep(0.1)


def losses(client: OpenAI, job_id: str) -> dict[int, float]:
    """The training loss of each step that was reported."""
    found: dict[int, float] = {}
    for event in client.fine_tuning.jobs.list_events(job_id, limit=100):
        if event.type == "metrics":
            data: Any = event.data
            found[data["step"]] = data["train_loss"]
    return found


def step_of(client: OpenAI, job_id: str) -> int:
    """How far a job is."""
    job: Any = client.fine_tuning.jobs.retrieve(job_id)
    return int(job.progress["step"])


def ended(client: OpenAI, job_id: str) -> Any:
    """A job after its end."""

    def look() -> Any:
        job = client.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in ("succeeded", "failed", "cancelled") else None

    return until(look)


def test_a_file_becomes_a_model_through_pauses_and_deaths(client: OpenAI, env: Env) -> None:
    content = "\n".join(map(json.dumps, ROWS)).encode()
    file = client.files.create(file=("train.jsonl", io.BytesIO(content)), purpose="fine-tune")
    jobs = client.fine_tuning.jobs
    first = jobs.create(training_file=file.id, **NEW).id
    watched = llma(env, "fine-tuning", "jobs", "watch", first)
    whole = ended(client, first)
    assert whole.status == "succeeded", whole.error
    assert watched.returncode == 0, watched.stderr
    assert f"Step {STEPS}/{STEPS}: training loss=" in watched.stdout
    assert watched.stdout.splitlines()[-1] == f"succeeded: {whole.fine_tuned_model}"
    expected = losses(client, whole.id)
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert expected[STEPS] < expected[1]
    assert client.models.retrieve(whole.fine_tuned_model).id == whole.fine_tuned_model
    [result] = whole.result_files
    assert client.files.content(result).read().count(b"\n") == STEPS + 1
    checkpoints = list(jobs.checkpoints.list(whole.id))
    assert [each.step_number for each in checkpoints] == [120, 108, 96]
    assert whole.trained_tokens == whole.estimate["tokens"]

    held_out = client.files.create(file=("held_out.jsonl", io.BytesIO(content)), purpose="fine-tune")
    gate = {"type": "validation_loss", "better_than": "base"}
    promotion = {"promotion": {"alias": "pirate-bot", "gate": gate}}
    job_id = jobs.create(training_file=file.id, validation_file=held_out.id, extra_body=promotion, **NEW).id
    until(lambda: step_of(client, job_id) >= 20)
    jobs.pause(job_id)
    until(lambda: str(jobs.retrieve(job_id).status) == "paused")
    jobs.resume(job_id)
    for step in (40, 70):
        until(lambda step=step: step_of(client, job_id) >= step)  # type: ignore[misc]
        os.kill(json.loads((Path(env["LLMARINER_HOME"]) / "platform.json").read_text())["pid"], signal.SIGKILL)
        assert llma(env, "up").returncode == 0
    again = ended(client, job_id)
    assert again.status == "succeeded", again.error
    assert losses(client, job_id) == pytest.approx(expected, abs=1e-5)
    assert again.trained_tokens == whole.trained_tokens
    decided = again.promotion["result"]
    assert (decided["status"], decided["alias_revision"]) == ("promoted", 1)
    assert decided["validation_loss"] < decided["base_validation_loss"], "which was measured before the first death"
    aliased: Any = client.models.retrieve("pirate-bot")
    assert aliased.alias_of == again.fine_tuned_model

    few = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    all_weights = {"training_type": {"type": "full"}}
    full = ended(client, jobs.create(training_file=file.id, extra_body=all_weights, **{**NEW, "method": few}).id)
    assert (full.status, full.training_type) == ("succeeded", {"type": "full"}), full.error
    own: Any = client.models.retrieve(full.fine_tuned_model)
    assert (own.is_base_model, own.loading_status) == (True, "MODEL_LOADING_STATUS_SUCCEEDED")
    names = [each.filename for each in client.files.list() if each.filename.startswith(full.id)]
    assert sorted(names) == [f"{full.id}-model.tar"] * 2 + [f"{full.id}-step_metrics.csv"], "of two epochs"

    canceled = jobs.create(training_file=file.id, **NEW).id
    until(lambda: step_of(client, canceled) >= 5)
    assert jobs.cancel(canceled).status == "cancelled"
    some: Any = jobs.retrieve(canceled)
    used: Any = client.get("/api_usages?group_by=model", cast_to=object)
    charged = sorted(row["trained_tokens"] for row in used["data"] if row["trained_tokens"])
    assert charged == sorted([some.trained_tokens, full.trained_tokens, *[whole.trained_tokens] * 2]), (
        "once, through pauses and deaths"
    )
    home = Path(env["LLMARINER_HOME"])
    until(lambda: not [path for path in (home / "jobs").iterdir() if path.name.startswith("ftjob-")])
    states = [each for each in client.files.list() if each.filename.endswith("state.safetensors")]
    assert states == []
    assert [job.id for job in jobs.list(limit=1)] == [canceled, full.id, job_id, whole.id]
