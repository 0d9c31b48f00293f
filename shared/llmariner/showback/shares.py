"""The shares of those who used a model that all projects share: by tokens, so that the parts add up to the whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sqlalchemy import func, or_, select

from llmariner.models.model import qualified_id
from llmariner.models.tables import models
from llmariner.platform.database import ReadSession
from llmariner.showback.prices import Amounts
from llmariner.showback.workloads import Owner
from llmariner.usage.tables import ledger_days, ledger_hours

__all__ = ["Shares"]

_DAY = 86400
_FREE_ROUTES = ("fine_tuning",)

Tokens = dict[str, dict[Owner, int]]


class Shares:
    """Reads the tokens of each span once; keeps those of the last one."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session
        self._span: tuple[int, int] | None = None
        self._tokens: Tokens = {}
        self._bases: dict[str, str | None] | None = None

    def split(self, model: str, start: int, end: int, used: Amounts) -> Iterator[tuple[Owner, Amounts]]:
        """What each user of a model has of what it held in a span of whole hours. Nobody used it: all is no one's."""
        if self._span != (start, end):
            self._tokens, self._span = self._read(start, end), (start, end)
        users = self._tokens.get(model, {})
        total = sum(users.values())
        if not total:
            yield Owner(), used
            return
        sums = [0]
        for tokens in users.values():
            sums.append(sums[-1] + tokens)
        for owner, (before, after) in zip(users, pairwise(sums), strict=True):
            yield owner, Amounts(*(_part(amount, before, after, total) for amount in _values(used)))

    def _read(self, start: int, end: int) -> Tokens:
        """The tokens of a span by the model whose engine made them, and by owner."""
        # Days where the span is of whole days: fewer rows.
        c = (ledger_days if not (start % _DAY or end % _DAY) else ledger_hours).c
        whose = (c.organization_id, c.project_id, c.user_id, c.model)
        tokens = func.sum(c.prompt_tokens + c.completion_tokens)
        query = (
            select(*whose, tokens)
            .where(c.start >= start, c.start < end, c.route.not_in(_FREE_ROUTES))
            .group_by(*whose)
            .order_by(*whose)
        )
        found: Tokens = {}
        for organization_id, project_id, user_id, name, number in map(tuple, self._session.rows(query)):
            if number:
                owner = Owner(organization_id, project_id, user_id)
                users = found.setdefault(self._engine_of(name, project_id), {})
                users[owner] = users.get(owner, 0) + int(number)
        return found

    def _engine_of(self, name: str, project_id: str) -> str:
        """The id of the model whose engine serves what a project calls by a name: of an adapter that of its base."""
        if self._bases is None:
            named = or_(models.c.base_model_id.is_not(None), models.c.id.contains("@", autoescape=True))
            query = select(models.c.id, models.c.base_model_id).where(named)
            self._bases = {row.id: row.base_model_id for row in self._session.rows(query)}
        # A project's own model of the name is another one.
        own = qualified_id(name, project_id)
        model = own if own in self._bases else name
        return self._bases.get(model) or model


def _values(used: Amounts) -> tuple[int, int, int]:
    return used.gpu_ms, used.millicore_ms, used.mib_ms


def _part(amount: int, before: int, after: int, total: int) -> int:
    """Whole numbers that add up: the difference of the rounded sums before and after."""
    return amount * after // total - amount * before // total
