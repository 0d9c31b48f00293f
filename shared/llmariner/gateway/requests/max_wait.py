"""How long a request may wait for its model."""

from __future__ import annotations

from llmariner.errors import InvalidRequest
from llmariner.gateway_settings import GatewaySettings

__all__ = ["max_wait"]


def max_wait(settings: GatewaySettings, prefer: bytes | None, *, stream: bool) -> float:
    """Seconds: `Prefer: wait=N` (RFC 7240) up to the platform's limit, else its default. InvalidRequest for another N."""
    for part in prefer.split(b",") if prefer else ():
        name, _, value = part.strip().partition(b"=")
        if name.lower() == b"wait":
            if not value.isdigit():
                raise InvalidRequest("The header 'Prefer: wait=N' takes whole seconds.", param="Prefer")
            return min(float(value), settings.wait_limit)
    return settings.wait_limit if stream else settings.wait_budget
