"""The limits and budgets that bind one caller on one model, ready to be taken from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmariner.gateway.limits.leased_quota import LeasedQuota
from llmariner.gateway.metering.pricing import Price
from llmariner.gateway.responses.limit_errors import format_duration

__all__ = ["ApplicableLimits", "Reservation", "max_cost"]

# What is reserved for an answer whose length its caller leaves open, as far as limits on tokens go.
_DEFAULT_COMPLETION_TOKENS = 1024
_MAX_LIMIT_FRACTION = 16
# Of three kinds of tokens, each rounded to a whole nano-dollar, and once more for the division here.
_ROUNDING = 4
_PERIODS = {"minute": 60, "day": 86400}


class ApplicableLimits:
    """`limits` and `budgets` in no order; `queue_share`: requests of the project that may wait, None: the platform's.

    `most_tokens`: the least of all limits on tokens; `open_answer`: tokens reserved for an answer of unknown length.
    """

    __slots__ = (
        "_constant_headers",
        "_request_limit",
        "_token_limit",
        "budgets",
        "default_completion_tokens",
        "limits",
        "max_tokens",
        "queue_share",
    )

    def __init__(self, quotas: Sequence[LeasedQuota]) -> None:
        self.budgets = tuple(each for each in quotas if each.rule.period is not None)
        self.limits = tuple(each for each in quotas if each.rule.period is None)
        shares = [each.rule.thresholds["queue_share"] for each in self.limits if "queue_share" in each.rule.thresholds]
        self.queue_share = min(shares, default=None)
        tokens = [
            most for each in self.limits for name, most in each.rule.thresholds.items() if name.startswith("tokens")
        ]
        self.max_tokens = min(tokens, default=math.inf)
        self.default_completion_tokens = (
            min(_DEFAULT_COMPLETION_TOKENS, min(tokens) // _MAX_LIMIT_FRACTION) if tokens else 0
        )
        self._constant_headers: list[tuple[bytes, bytes]] = []
        self._request_limit = self._narrowest("requests")
        self._token_limit = self._narrowest("tokens")

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's x-ratelimit headers, of the narrowest limit on requests and of that on tokens.

        A limit may have lost either measure since: what binds its other callers is then asked for just now.
        """
        found = self._constant_headers.copy()
        if (narrow := self._request_limit) is not None and narrow.limited[0]:
            left = narrow.requests + narrow.available.requests
            found.append((b"x-ratelimit-remaining-requests", b"%d" % (left if left > 0 else 0)))
        if (narrow := self._token_limit) is not None and narrow.limited[1]:
            left = narrow.tokens + narrow.available.tokens
            found.append((b"x-ratelimit-remaining-tokens", b"%d" % (left if left > 0 else 0)))
        return found

    def _narrowest(self, unit: str) -> LeasedQuota | None:
        """The limit that headers tell of, and what they say of it always."""
        for period, seconds in _PERIODS.items():
            name = f"{unit}_per_{period}"
            having = [each for each in self.limits if name in each.rule.thresholds]
            if having:
                narrow = min(having, key=lambda each: each.rule.thresholds[name])
                self._constant_headers += [
                    (f"x-ratelimit-limit-{unit}".encode(), b"%d" % narrow.rule.thresholds[name]),
                    # The window slides: what this request takes is back when the whole of it has passed.
                    (f"x-ratelimit-reset-{unit}".encode(), format_duration(seconds).encode()),
                ]
                return narrow
        return None


class Reservation:
    """What one request has taken until it is settled. Money is taken once the model and so its price are known."""

    __slots__ = ("applicable", "money", "tokens")

    def __init__(self, bound: ApplicableLimits, tokens: int) -> None:
        self.applicable = bound
        self.tokens = tokens
        self.money = 0

    def cancel(self) -> None:
        """Give everything back, the request itself included, and be bound by nothing from now on."""
        for limit in self.applicable.limits:
            limit.requests += 1
            limit.slots += 1
            limit.tokens += self.tokens
        for budget in self.applicable.budgets:
            budget.money += self.money
        self.applicable, self.tokens, self.money = _NO_LIMITS, 0, 0

    def settle(self, tokens: int, money: int, admitted_at: float = 0.0) -> None:
        """Pay what was used, and give the rest back; to be called once. `admitted_at`: as the ledger has it."""
        for limit in self.applicable.limits:
            limit.slots += 1
            limit.tokens += self.tokens - tokens
            limit.tokens_used += tokens
        for budget in self.applicable.budgets:
            budget.money += self.money - money
            if money:
                budget.add_spend(money, int(admitted_at // 86400))


_NO_LIMITS = ApplicableLimits(())


def max_cost(price: Price, prompt: int, answer: int) -> int:
    """At least what a request of at most so many tokens costs, in nano-dollars; of a price of nothing, nothing."""
    dearest = price.prompt if price.prompt > price.cached_prompt else price.cached_prompt
    rounding = _ROUNDING if dearest or price.completion or price.request else 0
    return (prompt * dearest + answer * price.completion) // 1_000_000 + price.request + rounding
