"""Which of the platform's Jobs in a cluster changed, for the agent's heartbeats.

Only names are reported: the control plane reads the status itself. A name is reported until a control plane has taken it, so
none is lost with a heartbeat. After a restart all are reported that have not ended, or ended lately.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmariner.errors import PlatformError
from llmariner.platform.jobs.kubernetes.phases import condition, seconds_of
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.kube.resources import JOBS
from llmariner.platform.serving.kserve.objects import MANAGED_BY_LABELS

__all__ = ["ChangedJobs"]

_log = logging.getLogger(__name__)
_LATELY_SECONDS = 3600.0
_LARGEST_LIMIT = 1000
_PAUSE = 20.0


@dataclass(frozen=True)
class _Seen:
    """A Job as it was seen. `digest`: of its identity and status. `ended_at`: in Unix seconds, None before its end."""

    digest: bytes
    ended_at: float | None = field(compare=False)


class ChangedJobs:
    """For one thread. `pause`: a look at the Jobs is followed by so many times its duration without one.

    Those that ended in the last day are among them, so that it may take long.
    """

    def __init__(self, cluster: Cluster, *, pause: float = _PAUSE) -> None:
        self._cluster = cluster
        self._pause = pause
        self._limit = 0
        self._problem = ""
        self._due = 0.0
        self._reported: dict[str, _Seen] | None = None
        # In the order in which they changed; None: it is gone.
        self._unreported: dict[str, _Seen | None] = {}

    def names(self) -> list[str]:
        """The names for the next heartbeat: as many as the control plane asks for, none before it does."""
        if self._limit:
            self._look()
        return list(self._unreported)[: self._limit]

    def answered(self, names: Sequence[str], answer: Mapping[str, Any]) -> None:
        """Note what the control plane said to a heartbeat with `names`, those of the last look."""
        limit = answer.get("changed_jobs_limit")
        is_number = isinstance(limit, int) and not isinstance(limit, bool)
        self._limit = max(0, min(int(limit or 0), _LARGEST_LIMIT)) if is_number else 0
        if answer.get("changed_jobs_taken") is not True or self._reported is None:
            return
        for name in names:
            seen = self._unreported.pop(name)
            if seen is None:
                self._reported.pop(name, None)
            else:
                self._reported[name] = seen

    def _look(self) -> None:
        began = time.monotonic()
        if began < self._due:
            return
        try:
            listed = self._cluster.list(JOBS, ClusterJobSettings.namespace, labels=MANAGED_BY_LABELS).items
        except (ClusterError, PlatformError) as error:
            if str(error) != self._problem:
                _log.warning("changes of Jobs are not reported: %s", error)
            self._problem = str(error)
            return
        self._problem = ""
        self._compare({str(each["metadata"]["name"]): _seen(each) for each in listed})
        ended = time.monotonic()
        self._due = ended + self._pause * (ended - began)

    def _compare(self, found: dict[str, _Seen]) -> None:
        if self._reported is None:
            before = time.time() - _LATELY_SECONDS
            self._reported = {name: each for name, each in found.items() if (each.ended_at or before) < before}
        for name, seen in found.items():
            if name in self._unreported or self._reported.get(name) != seen:
                self._unreported[name] = seen
        for name in self._unreported.keys() - found.keys():
            self._unreported[name] = None
        for name in [name for name in self._reported if name not in found and name not in self._unreported]:
            if self._reported[name].ended_at is None:
                self._unreported[name] = None
            else:
                del self._reported[name]


def _seen(job: Mapping[str, Any]) -> _Seen:
    status = job.get("status") or {}
    text = json.dumps([job["metadata"].get("uid"), status], sort_keys=True)
    end = condition(job, "Complete") or condition(job, "Failed")
    ended_at = None if end is None else seconds_of(end.get("lastTransitionTime")) or time.time()
    return _Seen(hashlib.blake2b(text.encode(), digest_size=12).digest(), ended_at)
