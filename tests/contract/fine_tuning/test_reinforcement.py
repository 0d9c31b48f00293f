"""Jobs by reinforcement: what is checked of lines and graders, what is charged, and who asks judging models."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.errors import Conflict, InsufficientQuota, InvalidRequest, PlatformError, RateLimited, Unavailable
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.promotion import Promotion
from llmariner.fine_tuning.representation import job_object
from llmariner.fine_tuning.tables import fine_tuning_grades, fine_tuning_jobs
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.database import Database
from llmariner.platform.jobs import Phase
from llmariner.tenancy.principal import KeyOwner

from ..vector_stores.token_path import TOKENS, TokenPath, error
from .desk import BASE
from .training_desk import TrainingDesk, jsonl, step

LINES = [{"messages": [{"role": "user", "content": f"Say {n}."}], "answer": str(n)} for n in range(12)]
EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": BASE,
    "input": [{"role": "user", "content": "Rate {{ sample.output_text }} for {{ item.answer }}."}],
}
PREFERENCE = {
    "input": {"messages": LINES[0]["messages"]},
    "preferred_output": [{"role": "assistant", "content": "1"}],
    "non_preferred_output": [{"role": "assistant", "content": "2"}],
}
NUMBERS = RequestedHyperparameters(n_epochs=2, batch_size=4, compute_multiplier=0.5, max_completion_tokens=10)
CHECKED = {"type": "checked", "training_file": {"examples": 12, "tokens": 60, "longest": 5}}
GROUP = 4


@pytest.fixture
def path() -> Iterator[TokenPath]:
    made = TokenPath()
    yield made
    made.close()


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path, path: TokenPath) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path / "objects", inference=path.client)


def start(desk: TrainingDesk, rows: Any = LINES, grader: Any = EXACT) -> str:
    return desk.start(rows, method="reinforcement", hyperparameters=NUMBERS, grader=grader)


def training(desk: TrainingDesk, grader: Any = EXACT) -> str:
    job_id = start(desk, grader=grader)
    desk.report(job_id, 0, CHECKED)
    desk.reconciled(job_id)
    desk.scripted.run(f"{job_id}-1")
    desk.report(job_id, 1, {"type": "training", "step": 0, "total_steps": 6})
    return job_id


def reward_step(number: int, tokens: int) -> dict[str, Any]:
    return step(number, train_reward=0.5, kl_divergence=0.1, grader_errors=0.0, trained_tokens=tokens)


def test_a_job_shows_its_grader_and_the_most_that_it_costs(desk: TrainingDesk) -> None:
    job_id = training(desk)
    job = desk.get(job_id)
    assert job.estimated_tokens == 2 * GROUP * (60 + 12 * 10)
    shown = job_object(job)
    settings = shown["method"]["reinforcement"]
    assert (shown["method"]["type"], settings["grader"]) == ("reinforcement", EXACT)
    assert settings["hyperparameters"] == {
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate_multiplier": 1.0,
        "compute_multiplier": 0.5,
        "eval_interval": "auto",
        "eval_samples": 1,
        "beta": 0.02,
        "max_completion_tokens": 10,
    }
    assert set(shown["hyperparameters"]) == {"n_epochs", "batch_size", "learning_rate_multiplier"}
    plan = desk.tuning.workers.plan(desk.worker(job_id, 1))
    assert (plan["grader"], plan["group_size"], plan["max_completion_tokens"]) == (EXACT, GROUP, 10)
    assert "eval_interval" not in plan
    desk.report(job_id, 1, reward_step(1, 100))
    [metrics] = [
        event.data for event in desk.history.events(desk.project_id, job_id, after=None, limit=9)[0] if event.step
    ]
    assert (metrics["train_reward_mean"], metrics["kl_divergence"]) == (0.5, 0.1)
    assert "Step 1/6: training loss=2.0000, reward=0.5000" in desk.messages(job_id)


def test_tokens_are_charged_as_answers_had_them_and_one_each_at_least(desk: TrainingDesk) -> None:
    job_id = training(desk)
    desk.report(job_id, 1, reward_step(1, 100), reward_step(2, 150))
    assert desk.get(job_id).trained_tokens == 150
    adapter = desk.result(job_id, 1, "adapter", b"adapter of step 3")
    desk.report(job_id, 1, {"type": "checkpoint", "step": 3, "file_id": adapter})
    assert desk.get(job_id).trained_tokens == GROUP * (60 + 12), "an epoch, with a token of each answer"
    desk.report(job_id, 1, reward_step(4, 700))
    with pytest.raises(InvalidRequest, match="tokens"):
        desk.report(job_id, 1, reward_step(5, 2 * GROUP * (60 + 12 * 10) + 1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"messages": LINES[0]["messages"]}, "'item.answer' of the grader is not there"),
        (PREFERENCE, "'messages' is missing"),
        ({**LINES[0], "tools": []}, "'tools' is not available"),
        (
            {**LINES[0], "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "the last",
        ),
        ({**LINES[0], "answer": "x" * 200_000}, "characters"),
    ],
)
def test_a_line_that_cannot_be_graded_is_named(desk: TrainingDesk, line: Any, message: str) -> None:
    job = desk.get(start(desk, [*LINES, line]))
    assert (job.status, job.error_code) == ("failed", "invalid_training_file")
    assert "ine 13" in str(job.error_message)
    assert message in str(job.error_message)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"grader": None}, "method.reinforcement.grader"),
        ({"grader": {"type": "python", "name": "x"}}, "method.reinforcement.grader.type"),
        ({"grader": {**JUDGE, "model": "gone"}}, "method.reinforcement.grader"),
        ({"grader": {**JUDGE, "model": "embeds"}}, "method.reinforcement.grader"),
        ({"hyperparameters": RequestedHyperparameters(compute_multiplier=0)}, "hyperparameters.compute_multiplier"),
        ({"promotion": Promotion("best", True, 1.0), "validation_file": "file-2"}, "promotion.gate"),
        ({"hyperparameters": RequestedHyperparameters(eval_samples=11)}, "hyperparameters.eval_samples"),
        (
            {"method": "dpo", "hyperparameters": RequestedHyperparameters(eval_interval=3)},
            "hyperparameters.eval_interval",
        ),
        ({"method": "supervised", "hyperparameters": RequestedHyperparameters(beta=0.1)}, "hyperparameters.beta"),
    ],
)
def test_a_job_that_cannot_be_is_refused(desk: TrainingDesk, fields: dict[str, Any], param: str) -> None:
    desk.registry.create(NewModel("embeds", SourceRepository.LOCAL, "/models/embeds", task=Task.EMBED))
    said = {"method": "reinforcement", "grader": EXACT, "training_file": desk.upload(jsonl(LINES)), **fields}
    with pytest.raises(InvalidRequest) as caught:
        desk.create(**said)
    assert caught.value.param == param


def test_what_other_methods_store_is_what_the_release_before_reads(desk: TrainingDesk) -> None:
    job_id = desk.training()
    with desk.database.read() as session:
        row = session.first(select(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id))
    assert row is not None
    before = {"n_epochs", "batch_size", "learning_rate_multiplier", "beta", "early_stopping_patience"}
    assert set(json.loads(row.requested)) == before
    assert set(json.loads(row.hyperparameters)) == {*before, "learning_rate"}


def chat(text: str) -> tuple[int, bytes]:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return 200, json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()


def test_a_judging_model_is_asked_in_the_makers_name_and_so_often_as_the_job_answers(
    desk: TrainingDesk, path: TokenPath
) -> None:
    job_id = training(desk, JUDGE)
    path.chat_answers = [chat('{"result": 0.25}')]
    found = desk.tuning.grades.grade_of_job(desk.worker(job_id, 1), LINES[3], "Three.")
    assert (found.reward, found.errors) == (0.25, {})
    [(_, headers, body)] = path.requests
    made = TOKENS.verify(headers["authorization"].removeprefix("Bearer "))
    assert made is not None
    assert (made[0].project_id, made[0].user_id) == (desk.project_id, desk.caller.user_id)
    assert (body["model"], body["messages"]) == (BASE, [{"role": "user", "content": "Rate Three. for 3."}])
    with desk.database.write() as session:
        left = session.value(select(fine_tuning_jobs.c.grades_left).where(fine_tuning_jobs.c.id == job_id))
        assert left == 3 * 2 * 12 * GROUP - 1
        session.run(update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id).values(grades_left=0))
    with pytest.raises(InvalidRequest, match="more graded"):
        desk.tuning.grades.grade_of_job(desk.worker(job_id, 1), LINES[3], "Three.")
    worker = desk.worker(job_id, 1)
    desk.jobs.cancel(desk.caller, job_id)
    with pytest.raises(Conflict):
        desk.tuning.grades.grade_of_job(worker, LINES[3], "Three.")


def test_requests_at_the_same_time_get_no_more_grades_than_one_after_another(
    desk: TrainingDesk, path: TokenPath
) -> None:
    job_id = training(desk, JUDGE)
    path.chat_answers = [chat("1")]
    with desk.database.write() as session:
        session.run(update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id).values(grades_left=1))
    refused, worker = [], desk.worker(job_id, 1)

    def grade_again(_: object) -> None:
        path.before = lambda _: None
        with pytest.raises(InvalidRequest) as raised:
            desk.tuning.grades.grade_of_job(worker, LINES[0], "x")
        refused.append(raised.value)

    path.before = grade_again
    assert desk.tuning.grades.grade_of_job(worker, LINES[0], "x").reward == 1
    assert (len(refused), len(path.requests)) == (1, 1)


def grades_left(desk: TrainingDesk, job_id: str) -> int:
    with desk.database.read() as session:
        return int(session.value(select(fine_tuning_jobs.c.grades_left).where(fine_tuning_jobs.c.id == job_id)) or 0)


def test_an_answer_that_is_made_again_after_an_interruption_is_not_graded_again(
    desk: TrainingDesk, path: TokenPath
) -> None:
    job_id = training(desk, JUDGE)
    path.chat_answers = [chat('{"result": 0.25}')] * 20
    planned = grades_left(desk, job_id)
    grade = desk.tuning.grades.grade_of_job
    place = (1, "train.0.0")
    first = grade(desk.worker(job_id, 1), LINES[3], "Three.", place=place)
    for attempt in range(1, 20):  # more often than there are grades for
        desk.scripted.end(f"{job_id}-{attempt}", Phase.FAILED, code="interrupted")
        desk.reconciled(job_id)
        desk.reconciled(job_id)
        desk.scripted.run(f"{job_id}-{attempt + 1}")
        assert grade(desk.worker(job_id, attempt + 1), LINES[3], "Three.", place=place) == first
    assert (len(path.requests), grades_left(desk, job_id)) == (1, planned - 1)
    worker = desk.worker(job_id, 20)
    grade(worker, LINES[3], "Tree.", place=place)
    grade(worker, LINES[4], "Three.", place=place)
    grade(worker, LINES[3], "Three.", place=(1, "train.0.1"))
    grade(worker, LINES[3], "Three.", place=(2, "train.0.0"))
    assert len(path.requests) == 5, "another answer, line or place"
    state = desk.result(job_id, 20, "state", b"state")
    desk.report(job_id, 20, {"type": "state", "step": 2, "file_id": state})
    with desk.database.read() as session:
        assert [row.step for row in session.rows(select(fine_tuning_grades))] == [2], "no attempt begins before it"
    desk.jobs.cancel(desk.caller, job_id)
    with desk.database.read() as session:
        assert session.rows(select(fine_tuning_grades)) == []


@pytest.mark.parametrize(
    ("status", "code", "raised"),
    [
        (429, "insufficient_quota", InsufficientQuota),
        (429, "rate_limit_exceeded", RateLimited),
        (503, "model_not_ready", Unavailable),
        (404, "model_not_found", InvalidRequest),
        (403, "key_revoked", InvalidRequest),
    ],
)
def test_what_keeps_a_judging_model_from_answering_is_said(
    desk: TrainingDesk, path: TokenPath, status: int, code: str, raised: type[PlatformError]
) -> None:
    job_id = training(desk, JUDGE)
    path.chat_answers = [(status, error(code))]
    with pytest.raises(raised):
        desk.tuning.grades.grade_of_job(desk.worker(job_id, 1), LINES[0], "x")
    with desk.database.read() as session:
        left = session.value(select(fine_tuning_jobs.c.grades_left).where(fine_tuning_jobs.c.id == job_id))
    assert left == 3 * 2 * 12 * GROUP, "an answer without a grade is none"


def test_a_second_judge_that_can_not_be_asked_gives_no_more_answers_of_the_first(
    desk: TrainingDesk, path: TokenPath
) -> None:
    both = {"type": "multi", "name": "both", "graders": {"a": JUDGE, "b": JUDGE}, "calculate_output": "a + b"}
    job_id = training(desk, both)
    path.chat_answers = [chat("1"), (429, error("rate_limit_exceeded"))]
    with pytest.raises(RateLimited):
        desk.tuning.grades.grade_of_job(desk.worker(job_id, 1), LINES[0], "x")
    with desk.database.read() as session:
        left = session.value(select(fine_tuning_jobs.c.grades_left).where(fine_tuning_jobs.c.id == job_id))
    assert (left, len(path.requests)) == (3 * 2 * 12 * GROUP - 1, 2)


@pytest.mark.parametrize(
    ("answer", "error_name"),
    [
        ((400, error("context_length_exceeded")), "model_grader_server_error"),
        ((500, b"no JSON"), "model_grader_server_error"),
        ((200, b"{}"), "model_grader_server_error"),
        ((200, b'{"choices": [{"message": {"content": null}}]}'), "model_grader_refusal_error"),
        ((200, b'{"choices": [{"message": {"content": "good"}}], "usage": 7}'), "model_grader_parse_error"),
    ],
)
def test_an_answer_that_the_judging_model_cannot_grade_has_no_reward(
    desk: TrainingDesk, path: TokenPath, answer: tuple[int, bytes], error_name: str
) -> None:
    job_id = training(desk, JUDGE)
    path.chat_answers = [answer]
    found = desk.tuning.grades.grade_of_job(desk.worker(job_id, 1), LINES[0], "x")
    assert (found.reward, list(found.errors)) == (0, [error_name])


def test_a_failure_of_the_judging_model_is_no_grade_that_is_kept(desk: TrainingDesk, path: TokenPath) -> None:
    worker = desk.worker(training(desk, JUDGE), 1)
    path.chat_answers = [(500, b""), chat("no number"), chat("1")]
    grades = [desk.tuning.grades.grade_of_job(worker, LINES[0], "x", place=(1, "a")) for _ in range(3)]
    assert [list(each.errors) for each in grades] == [
        ["model_grader_server_error"],
        ["model_grader_parse_error"],
        ["model_grader_parse_error"],  # for which it was paid
    ]


def test_an_answer_for_which_two_requests_ask_at_the_same_time_is_paid_once(
    desk: TrainingDesk, path: TokenPath
) -> None:
    job_id = training(desk, JUDGE)
    path.chat_answers = [chat('{"result": 0.25}')] * 3
    planned, worker, refused = grades_left(desk, job_id), desk.worker(job_id, 1), list[Unavailable]()
    grade = partial(desk.tuning.grades.grade_of_job, worker, LINES[0], place=(1, "a"))

    def ask_again(_: object) -> None:
        path.before = lambda _: None
        with pytest.raises(Unavailable) as raised:
            grade("x")
        refused.append(raised.value)
        assert grade("x", place=(1, "b")).reward == 0.25, "the same answer at another place does not wait"

    path.before = ask_again
    first = grade("x")
    assert ([each.code for each in refused], refused[0].headers) == (["grade_in_progress"], {"retry-after": "1"})
    assert grade("x") == first
    assert (len(path.requests), grades_left(desk, job_id)) == (2, planned - 2)


def test_the_claim_of_a_request_that_was_killed_ends_by_itself_and_that_of_one_that_failed_at_once(
    desk: TrainingDesk, path: TokenPath
) -> None:
    worker, c = desk.worker(training(desk, JUDGE), 1), fine_tuning_grades.c
    grade = partial(desk.tuning.grades.grade_of_job, worker, LINES[0], "x", place=(1, "a"))

    def kill(_: object) -> None:
        path.before = lambda _: None
        with desk.database.write() as session:  # as the process that is killed now leaves it
            left.extend(session.rows(select(fine_tuning_grades)))
            session.run(update(fine_tuning_grades).values(claimed_until=c.claimed_until + 1))

    left, path.before = list[Any](), kill
    path.chat_answers = [(503, error("model_not_ready")), (503, error("model_not_ready")), chat("1")]
    with pytest.raises(Unavailable, match="can't be asked now"):
        grade()
    with pytest.raises(Unavailable, match="Another request"):
        grade()
    assert 60 < left[0].claimed_until - time.time() < 120
    with desk.database.write() as session:
        session.run(update(fine_tuning_grades).values(claimed_until=c.claimed_until - 120))
    with pytest.raises(Unavailable, match="can't be asked now"):
        grade()
    with desk.database.read() as reading:
        assert reading.rows(select(fine_tuning_grades)) == [], "a job may ask for any number of places"
    assert grade().reward == 1
    assert len(path.requests) == 3


@pytest.mark.parametrize("second", ["x", "y"])
def test_a_request_whose_claim_has_ended_replaces_no_grade_of_the_one_that_followed_it(
    desk: TrainingDesk, path: TokenPath, second: str
) -> None:
    worker, c = desk.worker(training(desk, JUDGE), 1), fine_tuning_grades.c
    grade = partial(desk.tuning.grades.grade_of_job, worker, LINES[0], place=(1, "a"))

    def follow(_: object) -> None:
        path.before = lambda _: None
        if second == "x":  # another answer does not wait
            with desk.database.write() as session:
                session.run(update(fine_tuning_grades).values(claimed_until=c.claimed_until - 120))
        assert grade(second).reward == 0.75

    path.before, path.chat_answers = follow, [chat("0.75"), chat("0.25")]
    grade("x")
    assert grade(second).reward == 0.75
    assert len(path.requests) == 2


def test_two_workers_and_a_process_after_them_pay_for_each_answer_once(desk: TrainingDesk, path: TokenPath) -> None:
    job_id = training(desk, JUDGE)
    places = [(1, f"train.{line}.{answer}") for line in range(4) for answer in range(2)]
    path.chat_answers = [chat('{"result": 0.25}')] * 3 * len(places)
    planned, worker = grades_left(desk, job_id), desk.worker(job_id, 1)

    def grade(place: tuple[int, str]) -> float:
        for _ in range(200):
            try:
                return desk.tuning.grades.grade_of_job(worker, LINES[0], place[1], place=place).reward
            except Unavailable:
                time.sleep(0.02)
        raise TimeoutError

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(grade, places * 3)) == 0.25 * 3 * len(places)
    assert (len(path.requests), grades_left(desk, job_id)) == (len(places), planned - len(places))


def test_a_caller_tries_a_grader(desk: TrainingDesk, path: TokenPath) -> None:
    path.chat_answers = [chat("1")]
    both = {"type": "multi", "name": "both", "graders": {"e": EXACT, "j": JUDGE}, "calculate_output": "e * j"}
    trial = desk.tuning.grades.try_grader(desk.caller, both, {"answer": "1"}, "1")
    assert (trial.grade.reward, trial.grade.parts) == (1.0, {"e": 1.0, "j": 1.0})
    assert trial.tokens == {BASE: {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}
    with pytest.raises(InvalidRequest, match="gone"):
        desk.tuning.grades.try_grader(desk.caller, {**JUDGE, "model": "gone"}, {}, "1")


def test_a_job_pauses_when_its_judging_model_cannot_be_asked(desk: TrainingDesk) -> None:
    job_id = training(desk, JUDGE)
    desk.report(job_id, 1, {"type": "paused", "step": 0, "reason": "The budget is spent."})
    assert desk.get(job_id).status == "paused"
    assert desk.messages(job_id)[-1] == "The job is paused after step 0. The budget is spent."
