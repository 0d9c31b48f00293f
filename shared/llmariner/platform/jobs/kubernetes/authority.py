"""The authority of the control plane's certificate, in pods of a worker cluster that joined with one that is not public.

`llma admin clusters join --ca-file` prints its ConfigMap. Without it, pods trust what their image trusts.
"""

from __future__ import annotations

from typing import Any

__all__ = ["AUTHORITY", "AUTHORITY_FILE", "AUTHORITY_KEY", "AUTHORITY_VARIABLE", "authority_mount", "authority_volume"]

AUTHORITY, AUTHORITY_KEY = "llmariner-control-plane", "ca.crt"
"""The ConfigMap in the namespace of jobs, and its key with certificates as PEM."""
_FOLDER = "/run/llmariner-authority"
AUTHORITY_FILE = f"{_FOLDER}/{AUTHORITY_KEY}"
"""Where pods have the certificates, if there are any."""
AUTHORITY_VARIABLE = "LLMARINER_AUTHORITY_FILE"
"""The variable by which programs in pods know that path. They trust these certificates beside those of their image."""


def authority_volume() -> dict[str, Any]:
    """The volume of the pod: empty in a cluster that joined without an authority."""
    return {"name": "authority", "configMap": {"name": AUTHORITY, "optional": True}}


def authority_mount() -> dict[str, Any]:
    """Where containers have it."""
    return {"name": "authority", "mountPath": _FOLDER, "readOnly": True}
