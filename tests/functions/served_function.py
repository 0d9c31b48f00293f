"""One function in a process of its own, on a platform of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmariner.context import Context
from llmariner.platform.database.migrate import upgrade
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.principal import KeyOwner

from .processes import CHECKOUT, boot_command, process

__all__ = ["served_function"]


@contextmanager
def served_function(name: str, folder: Path, **settings: str) -> Iterator[tuple[Context, int, KeyOwner]]:
    """Run it for the block: the platform, the function's port, and who owns the platform. `settings`: more variables."""
    environment = {
        "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
        "LLMARINER_PEPPER": "0123456789abcdef" * 4,
        "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
        "LLMARINER_OBJECTS": "folder",
        "LLMARINER_OBJECTS_FOLDER": str(folder / "objects"),
        **settings,
    }
    context = Context(environment)
    upgrade(context.database)
    owner = ensure_first_owner(context.database)
    with process(boot_command(CHECKOUT / "functions" / name), environment, folder / "function.log") as port:
        yield context, port, KeyOwner(owner.user_id, owner.project_id, owner.organization_id)
    context.database.close()
