"""Grades of answers: of a job's, which its process asks for, and of one that a caller sends to try a grader.

A judging model is asked by the platform's own token path, in the name of who created the job: its requests count in the
usage, limits and budgets of the job's project. The process of a job has no credential for it. It can say a line and an
answer alone; the platform puts them into the grader that the job was created with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, update

from llmariner.errors import InsufficientQuota, InvalidRequest, ModelNotFound, RateLimited, Unavailable
from llmariner.fine_tuning.graders.definition import InvalidGrader, read_grader
from llmariner.fine_tuning.graders.grades import Ask, Grade, Grader, ModelFailed, Question, grade
from llmariner.fine_tuning.graders.templates import MAX_TEXT
from llmariner.fine_tuning.kept_grades import (
    Claim,
    GradedAnswer,
    claim_grade,
    keep_grade,
    release_grade,
)
from llmariner.fine_tuning.promotion import gate_grader
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.fine_tuning.worker_tokens import Worker, load_job_of
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, WriteSession
from llmariner.tenancy.background_work import Originator
from llmariner.tenancy.principal import Caller
from llmariner.vector_stores.inference import InferenceClient, InferenceFailed, InferencePaused, InferenceRefused

__all__ = ["AnswerGrades", "Trial"]

_WAIT_SECONDS = 20.0
"""For a judging model that sleeps. It wakes all the same, and a job asks again."""
_SECONDS = 50.0
"""For all judging models of a grader: the function answers within a minute."""
_GONE = (401, 403, 404)
"""Refusals that would be repeated for every answer."""


@dataclass
class Trial:
    """A grade with what it took. `tokens`: of judging models, by their names; `parts`: as of a grade."""

    grade: Grade
    seconds: float
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)


class AnswerGrades:
    """The grades of one installation. All methods block."""

    def __init__(self, database: Database, registry: ModelRegistry, inference: InferenceClient) -> None:
        self._database = database
        self._registry = registry
        self._inference = inference

    def check(self, caller: Caller, document: object) -> Grader:
        """The grader of a caller's JSON. Raises InvalidRequest, also for a model that the project does not have."""
        project_id = caller.key_owner.project_id
        try:
            grader = read_grader(document)
            for name in sorted(grader.models):
                self._registry.get(name, project_id=project_id)
        except InvalidGrader as error:
            raise InvalidRequest(str(error), param=error.param, code="invalid_grader") from error
        except ModelNotFound as error:
            raise InvalidRequest(error.message, param="grader.model", code=error.code) from error
        return grader

    def try_grader(self, caller: Caller, document: object, item: Mapping[str, Any], text: str) -> Trial:
        """The grade of one answer, by a caller's grader. Raises as `check` and `grade_of_job`."""
        if len(text) > MAX_TEXT:
            raise InvalidRequest(f"'model_sample' has {MAX_TEXT} characters at most.", param="model_sample")
        trial = Trial(Grade(0.0), 0.0)
        self._grade(trial, self.check(caller, document), Originator.of(caller), item, text)
        return trial

    def grade_of_job(
        self,
        worker: Worker,
        item: Mapping[str, Any],
        text: str,
        *,
        grader: str = "method",
        place: tuple[int, str] | None = None,
    ) -> Grade:
        """The grade of one answer of a job, by the grader of its `method`, or of its `gate`.

        `place`: the step of the answer, and which of its answers it is. The same answer at the same place is graded once:
        an attempt that is interrupted costs no grades. Raises Conflict once the attempt has ended, InvalidRequest for more
        answers than the job makes or a judging model that is gone, InsufficientQuota, RateLimited or Unavailable where a
        judging model can't be asked now, Unavailable with the code `grade_in_progress` while another request grades the
        same answer.
        """
        answer = None if place is None else GradedAnswer.of(grader, *place, item, text)
        begun = self._database.transact(lambda session: self._begin(session, worker, grader, answer))
        if isinstance(begun, Grade):
            return begun
        job, document, claim = begun
        made = Originator(job.user_id, job.project_id, job.organization_id, job.key_id)
        trial = Trial(Grade(0.0), 0.0)
        try:
            self._grade(trial, read_grader(document), made, item, text)
        except Exception:
            # Where a judging model has answered before another could not be asked, its tokens are spent.
            self._end(job.id, claim, None, grades=0 if trial.tokens else 1)
            raise
        # Where no judging model has answered, nothing is spent, and it may answer an attempt that follows.
        self._end(job.id, claim, trial.grade if trial.tokens or not trial.grade.errors else None)
        return trial.grade

    def _begin(
        self, session: WriteSession, worker: Worker, grader: str, answer: GradedAnswer | None
    ) -> Grade | tuple[Row[Any], Mapping[str, Any], Claim | None]:
        """The grade that an answer has; else the job, the grader and the claim of the answer, which one grade is taken for.

        It is taken before it is given, so that requests at the same time have no more together.
        """
        job = load_job_of(session, worker, lock=True)
        document = _grader_of(job, grader)
        claim = None if answer is None else claim_grade(session, job, answer)
        if isinstance(claim, Grade):
            return claim
        if answer is not None and claim is None:
            # No Conflict, by which programs of the release before end.
            raise Unavailable(
                "Another request grades this answer now. Send this one again in a moment.",
                code="grade_in_progress",
                headers={"retry-after": "1"},
            )
        if document is None or not job.grades_left or job.grades_left < 0:
            raise InvalidRequest("The job has no answers to grade, or has had more graded than it makes.", param="id")
        self._add_grades(session, job.id, -1)
        return job, document, claim

    def _end(self, job_id: str, claim: Claim | None, found: Grade | None, grades: int = 0) -> None:
        """End a claim, with the grade that is kept, and give back grades that were not given. One transaction, repeated."""

        def end(session: WriteSession) -> None:
            if grades:
                self._add_grades(session, job_id, grades)
            if claim is not None and found is not None:
                keep_grade(session, claim, found)
            elif claim is not None:
                release_grade(session, claim)

        self._database.transact(end)

    @staticmethod
    def _add_grades(session: WriteSession, job_id: str, number: int) -> None:
        c = fine_tuning_jobs.c
        session.run(update(fine_tuning_jobs).where(c.id == job_id).values(grades_left=c.grades_left + number))

    def _grade(self, trial: Trial, grader: Grader, originator: Originator, item: Mapping[str, Any], text: str) -> None:
        """Grade an answer into a trial, which has the tokens also where a judging model can't be asked."""
        began = time.monotonic()
        trial.grade = grade(grader, item, text, self._ask(originator, began + _SECONDS, trial.tokens))
        trial.seconds = time.monotonic() - began

    def _ask(self, originator: Originator, deadline: float, tokens: dict[str, dict[str, int]]) -> Ask:
        """Asks a judging model in the originator's name, and notes its tokens."""

        def ask(question: Question) -> str:
            body = {**question.body, "model": question.model}
            try:
                answer = self._inference.call(
                    "chat/completions", originator, body, wait_seconds=_WAIT_SECONDS, deadline=deadline
                )
                content = answer["choices"][0]["message"]["content"]
                usage = answer.get("usage")
            except InferencePaused as error:
                raise _paused(error) from error
            except InferenceRefused as error:
                if error.status in _GONE:
                    raise InvalidRequest(
                        f"The model '{question.model}' of the grader can't be asked: {error.message}",
                        param="grader.model",
                        code=error.code,
                    ) from error
                raise ModelFailed("model_grader_server_error", error.message) from error
            except (InferenceFailed, KeyError, IndexError, TypeError) as error:
                raise ModelFailed("model_grader_server_error", str(error)) from error
            _add(tokens.setdefault(question.model, {}), usage if isinstance(usage, dict) else {})
            if not isinstance(content, str):
                raise ModelFailed("model_grader_refusal_error", "The model answered without text.")
            return content

        return ask


def _grader_of(job: Row[Any], grader: str) -> Mapping[str, Any] | None:
    if grader == "gate":
        gate = gate_grader(job)
        return None if gate is None else gate.grader
    return None if job.grader is None else dict(json.loads(job.grader))


def _paused(error: InferencePaused) -> Exception:
    wait = {"retry-after": str(max(1, round(error.retry_after)))}
    message = f"The grader's model can't be asked now: {error.message}"
    if error.code == "insufficient_quota":
        return InsufficientQuota(message)
    if error.code.startswith("rate_limit"):
        return RateLimited(message, headers=wait)
    return Unavailable(message, code=error.code)


def _add(counted: dict[str, int], usage: Mapping[str, Any]) -> None:
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        value = usage.get(name)
        if isinstance(value, int):
            counted[name] = counted.get(name, 0) + value
