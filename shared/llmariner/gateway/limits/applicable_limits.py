"""The limits and budgets that bind one caller on one model, ready to be taken from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmariner.gateway.limits.leased_quota import Allowance
from llmariner.gateway.metering.pricing import Price
from llmariner.gateway.responses.limit_errors import format_duration

__all__ = ["Bound", "Reservation", "longest_cost"]

# What is reserved for an answer whose length its caller leaves open, as far as limits on tokens go.
_OPEN_ANSWER = 1024
_OPEN_PART = 16
# Of three kinds of tokens, each rounded to a whole nano-dollar, and once more for the division here.
_ROUNDING = 4
_PERIODS = {"minute": 60, "day": 86400}


class Bound:
    """`limits` and `budgets` in no order; `queue_share`: requests of the project that may wait, None: the platform's.

    `most_tokens`: the least of all limits on tokens; `open_answer`: tokens reserved for an answer of unknown length.
    """

    __slots__ = ("_constant", "_requests", "_tokens", "budgets", "limits", "most_tokens", "open_answer", "queue_share")

    def __init__(self, allowances: Sequence[Allowance]) -> None:
        self.budgets = tuple(each for each in allowances if each.rule.period is not None)
        self.limits = tuple(each for each in allowances if each.rule.period is None)
        shares = [each.rule.most["queue_share"] for each in self.limits if "queue_share" in each.rule.most]
        self.queue_share = min(shares, default=None)
        tokens = [most for each in self.limits for name, most in each.rule.most.items() if name.startswith("tokens")]
        self.most_tokens = min(tokens, default=math.inf)
        self.open_answer = min(_OPEN_ANSWER, min(tokens) // _OPEN_PART) if tokens else 0
        self._constant: list[tuple[bytes, bytes]] = []
        self._requests = self._shown("requests")
        self._tokens = self._shown("tokens")

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's x-ratelimit headers, of the narrowest limit on requests and of that on tokens.

        A limit may have lost either measure since: what binds its other callers is then asked for just now.
        """
        found = self._constant.copy()
        if (narrow := self._requests) is not None and narrow.limited[0]:
            left = narrow.requests + narrow.free.requests
            found.append((b"x-ratelimit-remaining-requests", b"%d" % (left if left > 0 else 0)))
        if (narrow := self._tokens) is not None and narrow.limited[1]:
            left = narrow.tokens + narrow.free.tokens
            found.append((b"x-ratelimit-remaining-tokens", b"%d" % (left if left > 0 else 0)))
        return found

    def _shown(self, unit: str) -> Allowance | None:
        """The limit that headers tell of, and what they say of it always."""
        for period, seconds in _PERIODS.items():
            name = f"{unit}_per_{period}"
            having = [each for each in self.limits if name in each.rule.most]
            if having:
                narrow = min(having, key=lambda each: each.rule.most[name])
                self._constant += [
                    (f"x-ratelimit-limit-{unit}".encode(), b"%d" % narrow.rule.most[name]),
                    # The window slides: what this request takes is back when the whole of it has passed.
                    (f"x-ratelimit-reset-{unit}".encode(), format_duration(seconds).encode()),
                ]
                return narrow
        return None


class Reservation:
    """What one request has taken until it is settled. Money is taken once the model and so its price are known."""

    __slots__ = ("bound", "money", "tokens")

    def __init__(self, bound: Bound, tokens: int) -> None:
        self.bound = bound
        self.tokens = tokens
        self.money = 0

    def withdraw(self) -> None:
        """Give everything back, the request itself included, and be bound by nothing from now on."""
        for limit in self.bound.limits:
            limit.requests += 1
            limit.places += 1
            limit.tokens += self.tokens
        for budget in self.bound.budgets:
            budget.money += self.money
        self.bound, self.tokens, self.money = _UNBOUND, 0, 0

    def settle(self, tokens: int, money: int, admitted_at: float = 0.0) -> None:
        """Pay what was used, and give the rest back; to be called once. `admitted_at`: as the ledger has it."""
        for limit in self.bound.limits:
            limit.places += 1
            limit.tokens += self.tokens - tokens
            limit.tokens_used += tokens
        for budget in self.bound.budgets:
            budget.money += self.money - money
            if money:
                budget.spend(money, int(admitted_at // 86400))


_UNBOUND = Bound(())


def longest_cost(price: Price, prompt: int, answer: int) -> int:
    """At least what a request of at most so many tokens costs, in nano-dollars; of a price of nothing, nothing."""
    dearest = price.prompt if price.prompt > price.cached_prompt else price.cached_prompt
    rounding = _ROUNDING if dearest or price.completion or price.request else 0
    return (prompt * dearest + answer * price.completion) // 1_000_000 + price.request + rounding
