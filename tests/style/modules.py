"""Names of modules and packages: nouns of the field; no gerunds, and none of the names that fit anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath

__all__ = ["module_faults"]

_VAGUE = {
    "base",
    "common",
    "helper",
    "helpers",
    "lib",
    "manager",
    "managers",
    "misc",
    "stuff",
    "tools",
    "util",
    "utils",
}
# Words in -ing that name a thing in this field. `images/base.py` is about base images.
_NOUNS = {
    "autoscaling",
    "chunking",
    "encoding",
    "eventing",
    "matching",
    "metering",
    "pricing",
    "provisioning",
    "deprovisioning",
    "rolling",
    "serving",
    "tuning",
}
_ALLOWED = {"images/base.py", "shared/llmariner/tenancy/invitations/pending.py"}


def module_faults(names: Iterable[str]) -> Iterator[str]:
    """`file: reason` for each Python module, relative to the checkout, whose name or whose package's name is a bad one.

    Test modules may end in a gerund: they name a behavior.
    """
    for name in sorted(names):
        if not name.endswith(".py") or name in _ALLOWED:
            continue
        path = PurePath(name)
        for part in (*path.parent.parts, path.stem):
            if part in _VAGUE:
                yield f"{name}: '{part}' names nothing: say what the module holds"
            elif part.endswith("ing") and not part.startswith("test_") and part.rpartition("_")[2] not in _NOUNS:
                yield f"{name}: '{part}' is a gerund: name the module after what it holds"
