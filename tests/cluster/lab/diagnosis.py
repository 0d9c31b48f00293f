"""What a person needs to see when the cluster does not come up: nodes, pods, events, last lines."""

from __future__ import annotations

from .kubectl import get, kubectl
from .places import Lab
from .processes import running
from .wait import LabError

__all__ = ["diagnosis"]

_LINES = 12


def diagnosis(lab: Lab) -> str:
    """Nodes, pods that do not run, the newest events, and the last words of pods that end and of dead processes."""
    asked = {
        "nodes": ("get", "nodes"),
        "pods that do not run": ("get", "pods", "-A", "--field-selector=status.phase!=Running,status.phase!=Succeeded"),
        "newest events": ("get", "events", "-A", "--sort-by=.lastTimestamp", "--field-selector=type=Warning"),
    }
    said = [f"{title}:\n{_last(_asked(lab, *words))}" for title, words in asked.items()]
    said += [f"last words of {pod}:\n{_last(_asked(lab, *words))}" for pod, words in _ending(lab)]
    alive = running(lab)
    for log in sorted(lab.logs.glob("*.log")):
        if log.stem not in alive:
            said.append(f"{log.stem} does not run; the end of {log}:\n{_last(log.read_text(errors='replace'))}")
    return "\n\n".join(said)


def _ending(lab: Lab) -> list[tuple[str, tuple[str, ...]]]:
    """Pods whose containers ended and were started again, and how to ask for what they said."""
    try:
        pods = get(lab, "pods", "--all-namespaces")["items"]
    except LabError:
        return []
    ended: list[tuple[str, tuple[str, ...]]] = []
    for pod in pods:
        meta = pod["metadata"]
        for state in pod.get("status", {}).get("containerStatuses", []):
            if not state["ready"] and state["restartCount"]:
                words = ("logs", "-n", meta["namespace"], meta["name"], "-c", state["name"], "--previous")
                ended.append((f"{meta['namespace']}/{meta['name']}", words))
    return ended


def _asked(lab: Lab, *words: str) -> str:
    try:
        return kubectl(lab, *words, seconds=30)
    except LabError as error:
        return str(error)


def _last(text: str) -> str:
    return "\n".join(f"  {line[:240]}" for line in text.rstrip().splitlines()[-_LINES:])
