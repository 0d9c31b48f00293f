"""Grades that judging models gave to a job's answers: an answer that is made again after an interruption has one already.

They are kept until the job has a state of a later step, or has ended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select

from llmariner.fine_tuning.graders.grades import Grade
from llmariner.fine_tuning.tables import fine_tuning_grades, fine_tuning_jobs
from llmariner.platform.database import ReadSession, WriteSession

__all__ = ["GradedAnswer", "find_grade", "keep_grade"]


@dataclass(frozen=True)
class GradedAnswer:
    """An answer at its place, as the process of a job names it. `digest`: of the line and the answer."""

    grader: str
    step: int
    place: str
    digest: str

    @classmethod
    def of(cls, grader: str, step: int, place: str, item: Mapping[str, Any], text: str) -> GradedAnswer:
        """That of an answer to a line."""
        content = json.dumps([item, text], sort_keys=True).encode()
        return cls(grader, step, place, hashlib.sha256(content).hexdigest())


def find_grade(session: ReadSession, job: Row[Any], answer: GradedAnswer) -> Grade | None:
    """The grade that the answer has; None also where another answer was given at its place."""
    c = fine_tuning_grades.c
    same = (c.job_id == job.id) & (c.grader == answer.grader) & (c.step == answer.step) & (c.place == answer.place)
    row = session.first(select(fine_tuning_grades).where(same, c.digest == answer.digest))
    return None if row is None else Grade(row.reward, json.loads(row.errors))


def keep_grade(session: WriteSession, job: Row[Any], answer: GradedAnswer, grade: Grade) -> None:
    """Keep a grade in place of that of another answer, unless the job has ended meanwhile."""
    c = fine_tuning_jobs.c
    if not session.rows(select(c.id).where(c.id == job.id, c.finished_at.is_(None)).with_for_update()):
        return
    row = {
        "job_id": job.id,
        "grader": answer.grader,
        "step": answer.step,
        "place": answer.place,
        "organization_id": job.organization_id,
        "project_id": job.project_id,
        "digest": answer.digest,
        "reward": grade.reward,
        "errors": json.dumps(dict(grade.errors)),
    }
    session.upsert(fine_tuning_grades, [row])
