"""Grades that judging models gave to a job's answers: an answer that is made again after an interruption has one already.

They are kept until the job has a state of a later step, or has ended. Before a judging model is asked, the answer is
claimed: a process that did not get the response asks again while the first request may be under way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, select, update

from llmariner.fine_tuning.graders.grades import Grade
from llmariner.fine_tuning.tables import fine_tuning_grades
from llmariner.platform.database import WriteSession

__all__ = ["Claim", "GradedAnswer", "claim_grade", "keep_grade", "release_grade"]

_CLAIM_SECONDS = 90.0
"""Longer than a request may take: the most that a killed one delays the next."""
_ENDED = {"claimed_digest": None, "claimed_until": None}


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


@dataclass(frozen=True)
class Claim:
    """The right to grade an answer, which no other request has meanwhile. `until`: by the database's clock."""

    job_id: str
    answer: GradedAnswer
    until: float


def claim_grade(session: WriteSession, job: Row[Any], answer: GradedAnswer) -> Grade | Claim | None:
    """The grade that an answer has, else a claim of it; None: another request grades it now. The job is locked.

    A claim whose holder was killed ends by itself. Another answer at the place replaces it: a process that made another one
    follows the process that asked for it.
    """
    now = session.now()
    claim = Claim(job.id, answer, now + _CLAIM_SECONDS)
    # Locked: a grade that is kept between two looks would be given once more.
    row = session.first(select(fine_tuning_grades).where(*_at(job.id, answer)).with_for_update())
    claimed = {"claimed_digest": answer.digest, "claimed_until": claim.until}
    if row is None:
        place = {"organization_id": job.organization_id, "project_id": job.project_id}
        at = {"job_id": job.id, "grader": answer.grader, "step": answer.step, "place": answer.place}
        session.add(fine_tuning_grades, **place, **at, digest="", reward=0.0, errors="{}", **claimed)
        return claim
    if row.digest == answer.digest:
        return Grade(row.reward, json.loads(row.errors))
    # One far in the future is of a clock that was set back.
    if row.claimed_digest == answer.digest and now < row.claimed_until <= now + 2 * _CLAIM_SECONDS:
        return None
    session.run(update(fine_tuning_grades).where(*_at(job.id, answer)).values(**claimed))
    return claim


def keep_grade(session: WriteSession, claim: Claim, grade: Grade) -> None:
    """Keep the grade of an answer that was claimed, in place of that of another answer, and end the claim.

    Unless another request has the place meanwhile, or had it: a grade that was given is not given again as another one.
    Where the job has ended or has a later state there is no place for it any more.
    """
    kept = {"digest": claim.answer.digest, "reward": grade.reward, "errors": json.dumps(dict(grade.errors))}
    session.run(update(fine_tuning_grades).where(*_held(claim)).values(**kept, **_ENDED))


def release_grade(session: WriteSession, claim: Claim) -> None:
    """End a claim, unless another request has the place: what follows may grade the answer at once."""
    # While a judging model can't be asked, a job may name any number of places.
    session.run(delete(fine_tuning_grades).where(*_held(claim), fine_tuning_grades.c.digest == ""))
    session.run(update(fine_tuning_grades).where(*_held(claim)).values(**_ENDED))


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """The condition for the row of a claim that no other request has replaced."""
    c = fine_tuning_grades.c
    held = (c.claimed_digest == claim.answer.digest, c.claimed_until == claim.until)
    return (*_at(claim.job_id, claim.answer), *held)


def _at(job_id: str, answer: GradedAnswer) -> tuple[ColumnElement[bool], ...]:
    """The condition for the row of a place."""
    c = fine_tuning_grades.c
    return (c.job_id == job_id, c.grader == answer.grader, c.step == answer.step, c.place == answer.place)
