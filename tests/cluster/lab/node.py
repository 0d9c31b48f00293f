"""The node: containerd, the pods' network, the kubelet and kube-proxy."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from .control_plane import kubeconfig
from .images import PAUSE, load_all
from .kubectl import get
from .places import Lab, cache
from .processes import alive, start
from .program_builds import program
from .wait import LabError, run, until

__all__ = ["end_containers", "start_kubelet", "start_runtime", "unmount"]

_CONTAINERD = """\
version = 2
root = "{root}"
state = "{folder}/containerd"
[grpc]
  address = "{socket}"
[debug]
  level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE no process may make itself harder to kill.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def start_runtime(lab: Lab) -> None:
    """Start containerd and load the cluster's own images. Images outlive the cluster, in the cache."""
    config, network = lab.folder / "containerd.toml", lab.folder / "cni"
    root = cache() / f"containerd{lab.number}"
    config.write_text(_CONTAINERD.format(root=root, pause=PAUSE, folder=lab.folder, socket=lab.containerd))
    network.mkdir(exist_ok=True)
    (network / "10-lab.conflist").write_text(json.dumps(_pod_network(lab)))
    start(lab, "containerd", "containerd", "--config", config)
    until("containerd", lambda: _silent(lab), seconds=60)
    load_all(lab)


def start_kubelet(lab: Lab) -> None:
    """Start the kubelet and kube-proxy and wait until the node is ready."""
    settings = lab.folder / "kubelet.json"
    settings.write_text(json.dumps(_kubelet(lab)))
    (lab.folder / "resolv.conf").write_text(f"nameserver {lab.service(10)}\n")
    kubelet = [
        program("kubernetes", "kubelet"),
        f"--config={settings}",
        f"--kubeconfig={kubeconfig(lab, 'kubelet')}",
        f"--hostname-override={lab.name}",
        f"--node-ip={lab.address}",
        f"--root-dir={lab.folder}/kubelet",
        f"--cert-dir={lab.folder}/kubelet-certificates",
    ]
    proxy = lab.folder / "kube-proxy.json"
    if not alive(lab, "kube-proxy"):  # which ends itself when its settings are written
        proxy.write_text(json.dumps(_proxy(lab)))
    start(lab, "kube-proxy", program("kubernetes", "kube-proxy"), f"--config={proxy}")
    until("node", lambda: _node_not_ready(lab, kubelet), seconds=180)


def end_containers(lab: Lab) -> None:
    """End every container and forget it; containerd must still run, the kubelet no more."""
    if not alive(lab, "containerd"):
        return
    ctr = ("ctr", f"--address={lab.containerd}", "--namespace=k8s.io")
    for kind, words in (("tasks", ("delete", "--force")), ("containers", ("delete",))):
        names = run(*ctr, kind, "list", "--quiet").split()
        for name in names:
            with contextlib.suppress(LabError):  # gone by itself in the meantime
                run(*ctr, kind, *words, name)


def unmount(lab: Lab) -> None:
    """Take away what the kubelet and containerd mounted below the run folder."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in sorted((each for each in mounts if each.startswith(f"{lab.folder}/")), reverse=True):
        run("umount", "--lazy", place)


def _pod_network(lab: Lab) -> dict[str, Any]:
    """Each pod has a routed link of its own, so that all its traffic passes the rules of kube-proxy."""
    return {
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{lab.folder}/addresses",
                    "ranges": [[{"subnet": lab.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet(lab: Lab) -> dict[str, Any]:
    pki = lab.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet-server.key",
        "containerRuntimeEndpoint": f"unix://{lab.containerd}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{lab.name}",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "clusterDomain": "cluster.local",
        "clusterDNS": [lab.service(10)],
        "resolvConf": f"{lab.folder}/resolv.conf",
        "podLogsDir": f"{lab.folder}/pods",
        "volumePluginDir": f"{lab.folder}/plugins",
        "maxPods": 200,
        "oomScoreAdj": 0,
        "failSwapOn": False,
        "registerNode": True,
        # The only node: no other takes over, so it may renew its lease less often.
        "nodeLeaseDurationSeconds": 240,
        "nodeStatusUpdateFrequency": "60s",
        "nodeStatusReportFrequency": "10m",
        # The disk is shared with other work; the images are made here and can't be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "localStorageCapacityIsolation": False,
        # Tests kill containers again and again: the default would let each wait for minutes.
        "featureGates": {"KubeletCrashLoopBackOffMax": True},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
    }


def _proxy(lab: Lab) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig(lab, "kube-proxy")},
        "hostnameOverride": lab.name,
        "mode": "iptables",
        "clusterCIDR": lab.pods,
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _silent(lab: Lab) -> str | None:
    if not alive(lab, "containerd"):
        raise LabError(f"containerd ended; see {lab.logs / 'containerd.log'}")
    try:
        run("ctr", f"--address={lab.containerd}", "version", seconds=10)
    except LabError as error:
        return str(error).splitlines()[-1]
    return None


def _node_not_ready(lab: Lab, kubelet: list[object]) -> str | None:
    # The kubelet gives up when containerd answers that it is not initialized yet: again, then.
    start(lab, "kubelet", *kubelet)
    if not alive(lab, "kube-proxy"):
        raise LabError(f"kube-proxy ended; see {lab.logs / 'kube-proxy.log'}")
    nodes = get(lab, "nodes")["items"]
    if not nodes:
        return "the kubelet has not registered it"
    ready = [each for each in nodes[0]["status"]["conditions"] if each["type"] == "Ready"]
    return None if ready and ready[0]["status"] == "True" else (ready or [{"message": "no condition"}])[0]["message"]
