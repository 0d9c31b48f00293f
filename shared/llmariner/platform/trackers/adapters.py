"""The adapter of each type of tracking server."""

from __future__ import annotations

from llmariner.platform.trackers import Credential, Tracker, TrackingRefused

__all__ = ["make_tracker"]


def make_tracker(type_: str, url: str, credential: Credential | None) -> Tracker:
    """The tracker of a type for a server. TrackingRefused for an unknown type."""
    if type_ == "mlflow":
        from llmariner.platform.trackers.mlflow import Mlflow

        return Mlflow(url, credential)
    if type_ == "wandb":
        from llmariner.platform.trackers.wandb import Wandb

        return Wandb(url, credential)
    raise TrackingRefused(f"the platform has no adapter for '{type_}'")
