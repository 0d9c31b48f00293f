"""The limits and budgets of one caller for one model, and reservations from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmariner.gateway.limits.leased_quota import LeasedQuota
from llmariner.gateway.metering.pricing import Price
from llmariner.gateway.responses.limit_errors import format_duration
from llmariner.gateway.responses.messages import header_fields

__all__ = ["ApplicableLimits", "Reservation", "max_cost"]

# Tokens reserved for a completion without `max_tokens`, at most that fraction of a limit on tokens.
_DEFAULT_COMPLETION_TOKENS = 1024
_MAX_LIMIT_FRACTION = 16
# Each of three kinds of tokens is rounded to a nano-dollar, and the division here once more.
_ROUNDING = 4
_PERIODS = {"minute": 60, "day": 86400}


class ApplicableLimits:
    """`limits` and `budgets` are unordered. `queue_share`: how many requests of the project may wait, None: the default.

    `max_tokens`: the lowest limit on tokens. `default_completion_tokens`: reserved for a completion of unknown length.
    """

    __slots__ = (
        "_constant_headers",
        "_constant_lines",
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
        self.max_tokens: int | float = min(tokens, default=math.inf)
        self.default_completion_tokens = (
            min(_DEFAULT_COMPLETION_TOKENS, min(tokens) // _MAX_LIMIT_FRACTION) if tokens else 0
        )
        self._constant_headers: list[tuple[bytes, bytes]] = []
        self._request_limit = self._narrowest("requests")
        self._token_limit = self._narrowest("tokens")
        self._constant_lines = b"".join(b"%b: %b\r\n" % header for header in self._constant_headers)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's x-ratelimit headers, for the lowest limit on requests and the lowest on tokens.

        A limit that no longer has the threshold is omitted: a refresh of the rules is then in flight.
        """
        return header_fields(self.header_lines())

    def header_lines(self) -> bytes:
        """The same as lines that end in CRLF: joining them costs less than a list of them."""
        lines = self._constant_lines
        if (lowest := self._request_limit) is not None and lowest.limited[0]:
            left = int(lowest.requests + lowest.available.requests)
            lines += b"x-ratelimit-remaining-requests: %d\r\n" % (left if left > 0 else 0)
        if (lowest := self._token_limit) is not None and lowest.limited[1]:
            left = int(lowest.tokens + lowest.available.tokens)
            lines += b"x-ratelimit-remaining-tokens: %d\r\n" % (left if left > 0 else 0)
        return lines

    def _narrowest(self, unit: str) -> LeasedQuota | None:
        """The lowest limit on a unit; adds its constant headers."""
        for period, seconds in _PERIODS.items():
            name = f"{unit}_per_{period}"
            candidates = [each for each in self.limits if name in each.rule.thresholds]
            if candidates:
                lowest = min(candidates, key=lambda each: each.rule.thresholds[name])
                self._constant_headers += [
                    (f"x-ratelimit-limit-{unit}".encode(), b"%d" % lowest.rule.thresholds[name]),
                    # The window slides: what this request uses is available again when a full window has elapsed.
                    (f"x-ratelimit-reset-{unit}".encode(), format_duration(seconds).encode()),
                ]
                return lowest
        return None


class Reservation:
    """What one request has reserved. Money is reserved once the model, and so its price, is known.

    A canceled reservation is empty: settling it has no effect.
    """

    __slots__ = ("applicable", "money", "tokens")

    def __init__(self, applicable: ApplicableLimits, tokens: int) -> None:
        self.applicable = applicable
        self.tokens = tokens
        self.money = 0

    def cancel(self) -> None:
        """Return everything, the request itself included. The reservation is then empty."""
        for limit in self.applicable.limits:
            limit.requests += 1
            limit.slots += 1
            limit.tokens += self.tokens
        for budget in self.applicable.budgets:
            budget.money += self.money
        self.applicable, self.tokens, self.money = _NO_LIMITS, 0, 0

    def settle(self, tokens: int, money: int, admitted_at: float = 0.0) -> None:
        """Charge what was used, and return the rest. Not idempotent. `admitted_at`: Unix seconds, as in the ledger."""
        for limit in self.applicable.limits:
            limit.slots += 1
            limit.tokens += self.tokens - tokens
            limit.tokens_used += tokens
        for budget in self.applicable.budgets:
            budget.money += self.money - money
            if money:
                budget.add_spend(money, int(admitted_at // 86400))


_NO_LIMITS = ApplicableLimits(())


def max_cost(price: Price, prompt_tokens: int, completion_tokens: int) -> int:
    """An upper bound of the cost of a request with at most so many tokens, in nano-dollars; 0 if the price is 0."""
    prompt_price = price.prompt if price.prompt > price.cached_prompt else price.cached_prompt
    rounding = _ROUNDING if prompt_price or price.completion or price.request else 0
    return (prompt_tokens * prompt_price + completion_tokens * price.completion) // 1_000_000 + price.request + rounding
