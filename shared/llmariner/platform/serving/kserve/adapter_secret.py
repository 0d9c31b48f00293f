"""The Secrets with the tokens of adapters that jobs made, one of each engine that loads some.

The InferenceService names its Secret and owns it, so it is made first, and its pods wait for the volume. A process that is
killed in between leaves pods that wait until another one looks at the model.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import time
from typing import Any

from llmariner.errors import PlatformError
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import AlreadyExists, ClusterError
from llmariner.platform.kube.resources import SECRETS
from llmariner.platform.serving.kserve.adapter_fetch import TOKENS_KEY, TOKENS_VOLUME, adapter_tokens, secret_name
from llmariner.platform.serving.kserve.model_lookup import ServedEngine
from llmariner.platform.serving.kserve.objects import MANAGED_BY_LABELS

__all__ = ["AdapterSecrets"]

_log = logging.getLogger(__name__)
Body = dict[str, Any]

_AGAIN_SECONDS = 10.0
"""After so long the Secret of pods that still wait is made again: a deleted InferenceService may have had its name."""


class AdapterSecrets:
    """Of the models in one namespace. Calls block and raise ClusterError. They make and delete Secrets, and read none."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._made_at: dict[str, float] = {}
        """By the uid of an InferenceService."""

    def check(self, service: Body, served: ServedEngine) -> None:
        """Raise what would keep the Secret of an InferenceService that is about to be applied from being made."""
        if (secret := _secret(service, served)) is not None:
            with contextlib.suppress(AlreadyExists):
                self._cluster.create(secret, dry_run=True)

    def make(self, service: Body, served: ServedEngine, before: Body | None) -> None:
        """Make the Secret of a stored InferenceService; delete that of its state `before`, if it is another one."""
        if (secret := _secret(service, served)) is not None:
            secret["metadata"]["ownerReferences"] = [_owner(service)]
            with contextlib.suppress(AlreadyExists):
                self._cluster.create(secret)
        name, old = service["metadata"]["name"], None if before is None else _named_by(before)
        # Somebody else's change may name any Secret.
        if old is not None and old != _named_by(service) and old.startswith(f"{name}-adapters-"):
            self._cluster.delete(SECRETS, service["metadata"]["namespace"], old)

    def make_again(self, service: Body, served: ServedEngine) -> None:
        """Make the Secret that pods wait for, every ten seconds at most."""
        uid, now = service["metadata"]["uid"], time.monotonic()
        if now - self._made_at.get(uid, float("-inf")) < _AGAIN_SECONDS:
            return
        self._made_at = {each: at for each, at in self._made_at.items() if now - at < _AGAIN_SECONDS} | {uid: now}
        try:
            self.make(service, served, None)
        except (ClusterError, PlatformError) as error:  # its pods wait on
            _log.warning("the Secret of %s cannot be made now: %s", service["metadata"]["name"], error)


def _secret(service: Body, served: ServedEngine) -> Body | None:
    """The Secret that an InferenceService names, of the adapters it was made with; None where it names none or another."""
    name, tokens = secret_name(service["metadata"]["name"], served.adapters), adapter_tokens(served.adapters)
    if not tokens or _named_by(service) != name:
        return None
    metadata = {"name": name, "namespace": service["metadata"]["namespace"], "labels": MANAGED_BY_LABELS}
    data = {TOKENS_KEY: base64.b64encode(json.dumps(tokens).encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "immutable": True, "data": data}


def _named_by(service: Body) -> str | None:
    volumes = service["spec"]["predictor"].get("volumes") or ()
    # Somebody else's volume of this name may be of another kind.
    named = (each.get("secret", {}).get("secretName") for each in volumes if each["name"] == TOKENS_VOLUME)
    return next(named, None)


def _owner(service: Body) -> Body:
    metadata = service["metadata"]
    kind = {"apiVersion": service["apiVersion"], "kind": service["kind"]}
    return {**kind, "name": metadata["name"], "uid": metadata["uid"]}
