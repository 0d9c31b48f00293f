"""The shares of those who used a model that all projects share: by tokens, so that the parts add up to the whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sqlalchemy import func, or_, select

from llmariner.models.tables import models
from llmariner.platform.database import ReadSession
from llmariner.showback.prices import Amounts
from llmariner.showback.workloads import Owner
from llmariner.usage.tables import ledger_days, ledger_hours

__all__ = ["Shares"]

_DAY = 86400
_FREE_ROUTES = ("fine_tuning",)


class Shares:
    """Reads the tokens of each model and span once."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session
        self._tokens: dict[tuple[str, int, int], list[tuple[Owner, int]]] = {}

    def split(self, model: str, start: int, end: int, used: Amounts) -> Iterator[tuple[Owner, Amounts]]:
        """What each user of a model has of what it held in a span of whole hours. Nobody used it: all is no one's."""
        users = self._used(model, start, end)
        total = sum(tokens for _, tokens in users)
        if not total:
            yield Owner(), used
            return
        sums = [0]
        for _, tokens in users:
            sums.append(sums[-1] + tokens)
        for (owner, _), (before, after) in zip(users, pairwise(sums), strict=True):
            yield owner, Amounts(*(_part(amount, before, after, total) for amount in _values(used)))

    def _used(self, model: str, start: int, end: int) -> list[tuple[Owner, int]]:
        known = self._tokens.get((model, start, end))
        if known is None:
            # Days where the span is of whole days: fewer rows.
            table = ledger_days if not (start % _DAY or end % _DAY) else ledger_hours
            c = table.c
            owner = (c.organization_id, c.project_id, c.user_id)
            tokens = func.sum(c.prompt_tokens + c.completion_tokens)
            # Its adapters run in its engine. A project's own model of the name is another one.
            adapters = select(models.c.id).where(models.c.base_model_id == model)
            own = select(models.c.project_id).where(models.c.id.startswith(f"{model}@", autoescape=True))
            served = or_(c.model == model, c.model.in_(adapters)) & c.project_id.not_in(own)
            query = (
                select(*owner, tokens)
                .where(served, c.start >= start, c.start < end, c.route.not_in(_FREE_ROUTES))
                .group_by(*owner)
                .order_by(*owner)
            )
            rows = [tuple(row) for row in self._session.rows(query)]
            known = [(Owner(*of), int(number)) for *of, number in rows if number]
            self._tokens[model, start, end] = known
        return known


def _values(used: Amounts) -> tuple[int, int, int]:
    return used.gpu_ms, used.millicore_ms, used.mib_ms


def _part(amount: int, before: int, after: int, total: int) -> int:
    """Whole numbers that add up: the difference of the rounded sums before and after."""
    return amount * after // total - amount * before // total
