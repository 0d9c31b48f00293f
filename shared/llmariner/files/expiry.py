"""When a new file expires: OpenAI's `expires_after`."""

from __future__ import annotations

from llmariner.errors import InvalidRequest

__all__ = ["check_expiry_seconds", "parse_expiry"]

_ANCHOR = "created_at"
_SHORTEST, _LONGEST = 3600, 30 * 86400


def parse_expiry(anchor: str | None, seconds: str | None) -> int | None:
    """The seconds of a form's fields `expires_after[anchor]` and `expires_after[seconds]`; None where neither is sent."""
    if anchor is None and seconds is None:
        return None
    for name, value in (("anchor", anchor), ("seconds", seconds)):
        if value is None:
            param = f"expires_after[{name}]"
            raise InvalidRequest(
                f"Missing required parameter: '{param}'. Send both of 'expires_after'.",
                param=param,
                code="missing_required_parameter",
            )
    text = seconds or ""
    # Not int(): it accepts spaces, underscores and digits outside ASCII.
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    return check_expiry_seconds(anchor or "", number, form=True)


def check_expiry_seconds(anchor: str, seconds: int, *, form: bool = False) -> int:
    """The seconds. Raises InvalidRequest for another anchor than `created_at`, and outside an hour to 30 days."""
    template = "expires_after[{}]" if form else "expires_after.{}"
    if anchor != _ANCHOR:
        param = template.format("anchor")
        raise InvalidRequest(f"'{param}' must be '{_ANCHOR}', not '{anchor[:64]}'.", param=param, code="invalid_value")
    if not _SHORTEST <= seconds <= _LONGEST:
        param = template.format("seconds")
        raise InvalidRequest(
            f"'{param}' must be whole seconds from {_SHORTEST} (an hour) to {_LONGEST} (30 days).",
            param=param,
            code="invalid_value",
        )
    return seconds
