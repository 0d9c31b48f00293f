"""Images of PostgreSQL and PgBouncer from this machine's own packages, since no container registry is reachable."""

from __future__ import annotations

import re
from pathlib import Path

from ..lab.images import Image
from ..lab.wait import LabError, run

__all__ = ["PGBOUNCER", "POSTGRES", "pgbouncer", "postgres"]

POSTGRES = "dev.local/llmariner/postgres:test"
PGBOUNCER = "dev.local/llmariner/pgbouncer:test"

_LIBRARY = re.compile(r"(/lib\S+|/usr/lib\S+)\s+\(0x")
_SHELL = {f"/bin/{name}": Path("/usr/bin/busybox") for name in ("sh", "rm", "mv", "kill")}
_LOCALE = Path("/usr/lib/locale/C.utf8")


def postgres() -> Image:
    """PostgreSQL's programs, and a shell for the script that starts it."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*"), key=lambda path: int(path.name))
    if not homes:
        raise LabError("PostgreSQL is not installed: apt-get install postgresql")
    home = homes[-1]
    shared = Path("/usr/share/postgresql") / home.name
    files = {**_below(home), **_below(shared), **_below(_LOCALE)}
    programs = [*(home / "bin").iterdir(), *(home / "lib").glob("*.so")]
    return Image(POSTGRES, {**files, **_libraries(programs), **_SHELL}, f"{home}/bin/postgres")


def pgbouncer() -> Image:
    """PgBouncer."""
    program = Path("/usr/sbin/pgbouncer")
    if not program.exists():
        raise LabError("PgBouncer is not installed: apt-get install pgbouncer")
    return Image(PGBOUNCER, {"/usr/bin/pgbouncer": program, **_libraries([program])}, "/usr/bin/pgbouncer")


def _below(folder: Path) -> dict[str, Path]:
    return {str(path): path.resolve() for path in folder.rglob("*") if path.is_file()}


def _libraries(programs: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for program in programs:
        for name in _LIBRARY.findall(run("ldd", program)):
            found[name] = Path(name).resolve()
    return found
