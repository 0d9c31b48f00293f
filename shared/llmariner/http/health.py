"""Health of the components that functions depend on."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from llmariner.context import Context
from llmariner.errors import PlatformError

__all__ = ["check_components"]


async def check_components(context: Context) -> dict[str, str | None]:
    """The reason why each component is degraded, by its name; None for a healthy one."""
    return {"database": await asyncio.to_thread(_database, context), "serving": await _serving(context)}


def _database(context: Context) -> str | None:
    try:
        with context.database.read() as session:
            session.value(text("SELECT 1"))
    except PlatformError as error:
        return error.message
    return None


async def _serving(context: Context) -> str | None:
    try:
        await context.serving.statuses()
    except PlatformError as error:
        return error.message
    return None
