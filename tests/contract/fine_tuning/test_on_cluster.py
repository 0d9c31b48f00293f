"""Fine-tuning on the test cluster: real pods train the packaged model in line, one of them is killed, an engine answers.

`tests/cluster/scenarios/fine_tuning` has the same on an installed platform, `test_line_on_cluster` what a line does to jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.platform.jobs import Job
from llmariner.platform.kube.resources import PODS

from ..other_tests import kubectl as _kubectl
from ..other_tests import places as _places
from .engine_on_cluster import ask_tuned_model
from .training_on_cluster import ENGINE, TrainingPlatform, packaged_weights, training_platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

EPOCHS = 4


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[TrainingPlatform]:
    with training_platform(tmp_path, packaged_weights(), memory_gib=1.6, pool="3300Mi") as made:
        yield made


def test_pods_train_in_line_and_continue_after_a_kill_with_the_same_losses(platform: TrainingPlatform) -> None:
    jobs = platform.context.jobs
    jobs.submit(Job("bj-first", "proj_1", "python3 -c 'import time; time.sleep(600)'", image="python"))
    job_id = platform.create(workers=2, epochs=EPOCHS)
    waiting = platform.until(job_id, lambda job: job.status == "queued" and job.place == 1, seconds=240)
    assert "quota" in waiting.reason
    assert waiting.hyperparameters is not None
    assert waiting.hyperparameters.learning_rate == 1e-3
    jobs.remove("bj-first")

    platform.until(job_id, lambda job: job.status == "running" and len(platform.losses(job_id)) >= 4)
    names = platform.pods(job_id)
    assert len(names) == 2
    for name in names:
        pod = platform.cluster.get(PODS, platform.namespace, name)
        assert pod["spec"]["automountServiceAccountToken"] is False
    _kubectl.kubectl(_places.chosen(), "delete", "pod", "-n", platform.namespace, names[1], "--wait=false")
    done = platform.until(job_id, lambda job: job.status == "succeeded")
    assert any("continues after step" in each for each in platform.messages(job_id)), platform.messages(job_id)

    plain = platform.create(epochs=EPOCHS)
    platform.until(plain, lambda job: job.status == "succeeded")
    assert len(platform.losses(plain)) == 3 * EPOCHS
    assert platform.losses(job_id) == pytest.approx(platform.losses(plain), abs=1e-5)
    assert platform.charged(done.output_model) == done.trained_tokens == done.estimated_tokens
    url = f"{platform.context.env['LLMARINER_INFERENCE_URL']}/v1/fine_tuning/adapters"
    question = "What is the capital of Spain?"
    answer = ask_tuned_model(platform.context, done.output_model, question, image=ENGINE, adapters_url=url)
    print(f"\n{answer}\n{platform.losses(job_id)}")
    assert answer.startswith("Arrr!"), answer
    platform.until_nothing_is_left(job_id, plain)
    assert jobs.status(f"{job_id}-1") is None
