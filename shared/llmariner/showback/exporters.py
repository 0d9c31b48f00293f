"""What exporters of accelerators and the kubelet measured in an hour, as Prometheus has it.

Known are NVIDIA's dcgm-exporter, AMD's device-metrics-exporter and Intel's gaudi-metric-exporter, and for cores the
kubelet's cAdvisor. Where a scrape has labels of its own that an exporter has, too, Prometheus writes those of the exporter
as `exported_…`; else they are the exporter's. docs/showback.md says where each name is defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from llmariner.platform.prometheus import Prometheus, Sample

__all__ = ["HourOfUse", "NodeUse", "Pod", "PodUse", "read_hour"]

CLUSTER_LABEL = "llmariner_cluster"
"""Has the id of a worker cluster, in series that its Prometheus forwards to this one."""

_NODE_LABELS = f"Hostname, hostname, node, instance, {CLUSTER_LABEL}"
_IDLE_BELOW_PERCENT = 1
_POD = (("exported_namespace", "exported_pod"), ("namespace", "pod"))
_POD_OF_GAUDI = (("exported_pod_namespace", "exported_pod_name"), ("pod_namespace", "pod_name"))


class _Exporter(NamedTuple):
    """Expressions of an exporter: percent of use, and memory in use with the MiB of its unit.

    `device`: labels that tell the devices of a node apart. `pod`: labels with the namespace and the name of the pod that has
    a device, those that count first before the others.
    """

    use: str
    memory: str
    mib: float
    device: str
    pod: tuple[tuple[str, str], ...] = _POD


def _of_whole_gpus(metric: str) -> str:
    """A metric of AMD's exporter, which may be set to write all of them with a prefix."""
    whole = '{gpu_compute_partition_type=~"(?i:spx)?"}'
    return f"{metric}{whole} or amd_{metric}{whole}"


_EXPORTERS = (
    # An instance of a partitioned GPU (MIG) has no utilization of its own, or 0, but a share of time with active engines.
    _Exporter(
        'DCGM_FI_DEV_GPU_UTIL{GPU_I_ID=""} or DCGM_FI_PROF_GR_ENGINE_ACTIVE * 100',
        "DCGM_FI_DEV_FB_USED",
        1,
        "gpu, UUID, GPU_I_ID",
    ),
    # The activity of a partition is not measured.
    _Exporter(_of_whole_gpus("gpu_gfx_activity"), _of_whole_gpus("gpu_used_vram"), 1, "gpu_id, serial_number"),
    _Exporter("habanalabs_utilization", "habanalabs_memory_used_bytes", 2**-20, "Serial, UUID", _POD_OF_GAUDI),
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
        valid, labels = f"(({exporter.use}) >= 0 <= 100)", _pod_labels(exporter.pod)
        counted = prometheus.query(f"sum by ({labels}) (count_over_time({valid}{over}))", end)
        if not counted:
            continue
        for each in counted:
            pods.setdefault(_pod(each, exporter.pod), PodUse()).samples += each.value
        for each in prometheus.query(f"sum by ({labels}) (sum_over_time({valid}{over}))", end):
            pods.setdefault(_pod(each, exporter.pod), PodUse()).busy += each.value / 100
        idle = f"({valid} < bool {_IDLE_BELOW_PERCENT})"
        for each in prometheus.query(f"sum by ({labels}) (sum_over_time({idle}{over}))", end):
            pods.setdefault(_pod(each, exporter.pod), PodUse()).idle += each.value
        memory = f"(({exporter.memory}) >= 0 <= {_MAX_MEMORY}) * {exporter.mib!r}"
        for what, unit, field in ((valid, 0.01, "gpus"), (memory, 1.0, "memory_mib")):
            # A device that pods share has a series for each of them.
            once = f"max by ({_NODE_LABELS}, {exporter.device}) ({what})"
            of_node = f"(sum by ({_NODE_LABELS}) ({once})){over}"
            for name in ("max", "avg"):
                for each in prometheus.query(f"{name}_over_time({of_node})", end):
                    node = nodes.setdefault(_node(each), NodeUse())
                    setattr(node, f"{name}_{field}", getattr(node, f"{name}_{field}") + each.value * unit)
    span = f"[{round((end - start) * 1000)}ms]"
    for each in prometheus.query(f"sum by ({_pod_labels(_POD)}) (increase({_CORES}{span}))", end):
        use = pods.setdefault(_pod(each, _POD), PodUse())
        use.core_seconds = (use.core_seconds or 0.0) + each.value
    return HourOfUse(pods, nodes)


def _pod_labels(names: tuple[tuple[str, str], ...]) -> str:
    return ", ".join((*(label for pair in names for label in pair), CLUSTER_LABEL))


def _pod(sample: Sample, names: tuple[tuple[str, str], ...]) -> Pod:
    labels = sample.labels
    namespace, pod = next((pair for pair in names if labels.get(pair[1])), names[-1])
    return Pod(labels.get(CLUSTER_LABEL, ""), labels.get(namespace, ""), labels.get(pod, ""))


def _node(sample: Sample) -> tuple[str, str]:
    labels = sample.labels
    name = next((labels[each] for each in ("Hostname", "hostname", "node") if labels.get(each)), None)
    return labels.get(CLUSTER_LABEL, ""), (name or labels.get("instance", "").rpartition(":")[0])[:253]
