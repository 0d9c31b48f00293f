"""Options of the form KEY=VALUE."""

from __future__ import annotations

import click

__all__ = ["key_and_value"]


def key_and_value(pair: str) -> tuple[str, str]:
    """Both parts; the value may contain more of `=`. A usage error for another form."""
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{pair!r} is not KEY=VALUE.")
    return key, value
