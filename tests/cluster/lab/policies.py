"""Enforcement of NetworkPolicy, which the pods' network has none of: kube-router's firewall, where a test wants it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .places import Lab
from .processes import start, stop
from .program_builds import build, program
from .wait import LabError, run, until

__all__ = ["enforced"]

_NAME = "kube-router"
# kube-router's own default chain for what goes to pods: there once it has looked at every policy.
_CHAIN = "KUBE-ROUTER-FORWARD"
_RULES = ("KUBE-ROUTER", "KUBE-POD-FW", "KUBE-NWPLCY")


@contextlib.contextmanager
def enforced(lab: Lab) -> Iterator[None]:
    """NetworkPolicies hold meanwhile; its rules are taken away at the end. LabError without ipset."""
    build(_NAME)
    router = program(_NAME, _NAME)
    try:
        start(
            lab,
            _NAME,
            router,
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            "--run-loadbalancer=false",
            "--iptables-sync-period=5s",
            f"--service-cluster-ip-range={lab.services}",
            f"--hostname-override={lab.name}",
            f"--kubeconfig={lab.kubeconfig}",
        )
        until("policies are enforced", lambda: _missing(lab), seconds=90)
        yield
    finally:
        stop(lab, _NAME)
        _clean(lab)


def _missing(lab: Lab) -> str | None:
    try:
        rules = _inside(lab, "iptables", "-S", _CHAIN)
    except LabError:
        return "kube-router has made no rules"
    return None if "KUBE-POD-FW" in rules else "no pod has rules"


def _clean(lab: Lab) -> None:
    """Take its rules and sets away (its own `--cleanup-config` panics in 2.1 where the kernel has no IPVS)."""
    rules = _inside(lab, "iptables-save", "-t", "filter").splitlines()
    kept = [rule for rule in rules if not any(mark in rule for mark in _RULES)]
    _inside(lab, "iptables-restore", "-T", "filter", text="\n".join(kept) + "\n")
    for name in _inside(lab, "ipset", "list", "-n").split():
        _inside(lab, "ipset", "destroy", name)


def _inside(lab: Lab, *command: object, text: str | None = None) -> str:
    """Run a command in the cluster's network."""
    return run("nsenter", f"--net={lab.namespace}", "--", *command, text=text)
