"""What exporters of accelerators and the kubelet measured in an hour, as Prometheus has it.

Known are NVIDIA's dcgm-exporter, AMD's device-metrics-exporter and Intel's Gaudi exporter, and for cores the kubelet's
cAdvisor. Where a scrape has labels of its own that an exporter has, too, Prometheus writes those of the exporter as
`exported_…`; else they are the exporter's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from llmariner.platform.prometheus import Prometheus, Sample

__all__ = ["HourOfUse", "NodeUse", "Pod", "PodUse", "read_hour"]

CLUSTER_LABEL = "llmariner_cluster"
"""Has the id of a worker cluster, in series that its Prometheus forwards to this one."""

_POD_LABELS = f"namespace, pod, exported_namespace, exported_pod, {CLUSTER_LABEL}"
_NODE_LABELS = f"Hostname, hostname, node, instance, {CLUSTER_LABEL}"
_IDLE_BELOW_PERCENT = 1


class _Exporter(NamedTuple):
    """The metrics of an exporter: percent of use, and memory in use with the MiB of its unit."""

    use: str
    memory: str
    mib: float


_EXPORTERS = (
    _Exporter("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", 1),
    _Exporter("gpu_gfx_activity", "gpu_used_vram", 1),
    _Exporter("habanalabs_utilization", "habanalabs_memory_used_bytes", 2**-20),
)
_CORES = 'container_cpu_usage_seconds_total{container!="",container!="POD"}'
_MAX_MEMORY = 2**50


class Pod(NamedTuple):
    """`cluster_id` empty: the platform's own cluster."""

    cluster_id: str
    namespace: str
    name: str


@dataclass
class PodUse:
    """GPUs of a pod in an hour: `samples` of all of them together, their sum as shares of a GPU, and how many were idle.

    `core_seconds` None: not measured.
    """

    samples: float = 0.0
    busy: float = 0.0
    idle: float = 0.0
    core_seconds: float | None = None


@dataclass
class NodeUse:
    """GPUs of a node in an hour, in whole GPUs and MiB: their sums over the node, at most and on average."""

    max_gpus: float = 0.0
    avg_gpus: float = 0.0
    max_memory_mib: float = 0.0
    avg_memory_mib: float = 0.0


@dataclass(frozen=True)
class HourOfUse:
    """What was measured. Nodes are by cluster and name."""

    pods: Mapping[Pod, PodUse]
    nodes: Mapping[tuple[str, str], NodeUse]


def read_hour(prometheus: Prometheus, start: float, end: float, *, step_seconds: float = 60.0) -> HourOfUse:
    """What was measured from `start` to `end`, a sample each `step_seconds`. Raises Unavailable."""
    pods: dict[Pod, PodUse] = {}
    nodes: dict[tuple[str, str], NodeUse] = {}
    over = f"[{round((end - start) * 1000)}ms:{round(step_seconds * 1000)}ms]"
    for exporter in _EXPORTERS:
        # An exporter reports what it can't measure as a number beyond all that is possible.
        valid = f"({exporter.use} >= 0 <= 100)"
        counted = prometheus.query(f"sum by ({_POD_LABELS}) (count_over_time({valid}{over}))", end)
        if not counted:
            continue
        for each in counted:
            pods.setdefault(_pod(each), PodUse()).samples += each.value
        for each in prometheus.query(f"sum by ({_POD_LABELS}) (sum_over_time({valid}{over}))", end):
            pods.setdefault(_pod(each), PodUse()).busy += each.value / 100
        idle = f"({valid} < bool {_IDLE_BELOW_PERCENT})"
        for each in prometheus.query(f"sum by ({_POD_LABELS}) (sum_over_time({idle}{over}))", end):
            pods.setdefault(_pod(each), PodUse()).idle += each.value
        memory = f"({exporter.memory} >= 0 <= {_MAX_MEMORY}) * {exporter.mib!r}"
        for what, unit, field in ((valid, 0.01, "gpus"), (memory, 1.0, "memory_mib")):
            of_node = f"(sum by ({_NODE_LABELS}) ({what})){over}"
            for name in ("max", "avg"):
                for each in prometheus.query(f"{name}_over_time({of_node})", end):
                    node = nodes.setdefault(_node(each), NodeUse())
                    setattr(node, f"{name}_{field}", getattr(node, f"{name}_{field}") + each.value * unit)
    span = f"[{round((end - start) * 1000)}ms]"
    for each in prometheus.query(f"sum by ({_POD_LABELS}) (increase({_CORES}{span}))", end):
        use = pods.setdefault(_pod(each), PodUse())
        use.core_seconds = (use.core_seconds or 0.0) + each.value
    return HourOfUse(pods, nodes)


def _pod(sample: Sample) -> Pod:
    labels = sample.labels
    prefix = "exported_" if "exported_pod" in labels else ""
    return Pod(labels.get(CLUSTER_LABEL, ""), labels.get(f"{prefix}namespace", ""), labels.get(f"{prefix}pod", ""))


def _node(sample: Sample) -> tuple[str, str]:
    labels = sample.labels
    name = next((labels[each] for each in ("Hostname", "hostname", "node") if labels.get(each)), None)
    return labels.get(CLUSTER_LABEL, ""), (name or labels.get("instance", "").rpartition(":")[0])[:253]
