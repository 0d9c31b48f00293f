"""Errors of exceeded limits and budgets: which one, its subject, when to retry, and who can raise it."""

from __future__ import annotations

from llmariner.errors import InsufficientQuota, PermissionDenied, RateLimited
from llmariner.gateway.control_plane.port import Key, Rule
from llmariner.gateway.limits.leased_quota import LeasedQuota

__all__ = [
    "budget_exceeded",
    "format_dollars",
    "format_duration",
    "model_not_allowed",
    "rate_limited",
    "request_too_large",
]

_UNITS = {
    "requests_per_minute": ("requests", "requests per min (RPM)"),
    "requests_per_day": ("requests", "requests per day (RPD)"),
    "tokens_per_minute": ("tokens", "tokens per min (TPM)"),
    "tokens_per_day": ("tokens", "tokens per day (TPD)"),
}
_MIN_RETRY_SECONDS = 1.0
_MINUTE_WINDOW_SECONDS = 62.0


def rate_limited(
    quota: LeasedQuota, key: Key, model: str, tokens: int, now: float, headers: dict[str, str]
) -> RateLimited:
    """The error for a request that exceeds a rate or concurrency limit. `now`: monotonic seconds; `tokens`: requested."""
    rule = quota.rule
    wait = max(_MIN_RETRY_SECONDS, quota.blocked_until - now)
    if quota.requests >= 1 and quota.slots < 1:
        limit = f"concurrent requests: Limit {rule.thresholds['concurrent_requests']}"
    else:
        unit, requested = ("requests", 1) if quota.requests < 1 else ("tokens", tokens)
        name = _exceeded_limit(rule, unit, wait)
        limit = f"{_UNITS[name][1]}: Limit {rule.thresholds[name]}, Requested {requested}"
    return RateLimited(
        f"Rate limit reached for model `{model}` in organization {key.organization_id} on {limit}. "
        f"Please try again in {format_duration(wait)}. {_who_can_raise(rule)}",
        headers={**_retry_after_headers(wait), **headers},
        details={"limit": rule.id},
    )


def _retry_after_headers(wait: float) -> dict[str, str]:
    """The retry headers. Clients honor at most 60 s, so the last second of a 61 s wait is dropped."""
    seconds = 60.0 if 60 < wait <= 61 else wait
    return {"retry-after": str(int(seconds + 0.999)), "retry-after-ms": str(int(seconds * 1000 + 0.999))}


def request_too_large(rule: Rule, key: Key, model: str, tokens: int, limit: int) -> RateLimited:
    """The error for a request larger than the limit, which no retry can satisfy."""
    return RateLimited(
        f"Request too large for model `{model}` in organization {key.organization_id}: Limit {limit} tokens, "
        f"Requested {tokens}. Ask for a shorter answer (max_completion_tokens). {_who_can_raise(rule)}",
        headers={"x-should-retry": "false"},
        details={"limit": rule.id},
    )


def budget_exceeded(quota: LeasedQuota, now: float) -> InsufficientQuota:
    """The error for a request that exceeds a budget. `now`: monotonic seconds."""
    rule = quota.rule
    period = {"day": "of today ", "month": "of this month "}.get(rule.period or "", "")
    amount = rule.amount or 0
    if quota.spent >= amount:
        reason = "is spent"
        headers = {"x-should-retry": "false"}
    else:
        reason = "can't pay for the longest answer to this request beside those that are under way"
        headers = {"retry-after": str(int(max(_MIN_RETRY_SECONDS, quota.blocked_until - now) + 0.999))}
    return InsufficientQuota(
        f"You exceeded your current quota: the budget {period}of {format_dollars(amount)} for {_subject(rule)} {reason}. "
        f"Ask for a shorter answer, or have an owner of the organization raise it: POST /v1/budgets/{rule.id}.",
        headers=headers,
        details={"budget": rule.id},
    )


def model_not_allowed(model_id: str) -> PermissionDenied:
    """The error for a model that the key or its project may not use."""
    return PermissionDenied(
        f"You may not use the model `{model_id}`: your API key or project is restricted to other models. "
        "An owner of the project can change that.",
        param="model",
        code="model_not_allowed",
    )


def format_dollars(nano: int) -> str:
    """Format nano-dollars as dollars, for error messages."""
    return f"${nano / 1e9:,.9f}".rstrip("0").rstrip(".")


def format_duration(seconds: float) -> str:
    """Format a duration as OpenAI does: 120ms, 1.5s, 1m30s, 24h0m0s."""
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _exceeded_limit(rule: Rule, unit: str, wait: float) -> str:
    """The exceeded limit of a rule, per minute or per day: only a daily limit needs more than a minute to recover."""
    named = [name for name, (metric_unit, _) in _UNITS.items() if metric_unit == unit and name in rule.thresholds]
    return named[-1] if wait > _MINUTE_WINDOW_SECONDS else named[0]


def _subject(rule: Rule) -> str:
    words = {"key": "the API key", "user": "the user", "project": "the project", "organization": "the organization"}
    return f"{words[rule.subject]} {rule.subject_id}"


def _who_can_raise(rule: Rule) -> str:
    owner = (
        "an owner of the organization" if rule.subject == "organization" else "an owner of the project or organization"
    )
    return f"The limit is that of {_subject(rule)}; {owner} can raise it: POST /v1/limits."
