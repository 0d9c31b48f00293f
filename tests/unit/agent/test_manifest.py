"""The manifest of an agent: exactly its rights, and the objects of a restricted namespace."""

from __future__ import annotations

import subprocess
import sys

from llmariner.agent.manifest import AgentManifest


def test_the_rights_are_those_that_the_agent_uses() -> None:
    objects = AgentManifest("https://llm.example.org", "clusterkey-1", gpu_namespace="nvidia").objects()
    rules = {each["kind"]: each["rules"] for each in objects if "rules" in each}
    assert rules["ClusterRole"] == [
        {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list"]},
        {
            "apiGroups": ["apps"],
            "resources": ["deployments"],
            "verbs": ["get"],
            "resourceNames": [
                "activator",
                "controller",
                "gpu-operator",
                "kserve-controller-manager",
                "kueue-controller-manager",
            ],
        },
    ]
    assert rules["Role"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "verbs": ["get", "patch", "delete"],
            "resourceNames": ["llmariner-device-plugin-config"],
        },
    ]


def test_the_agent_comes_before_what_waits_for_room_and_drives_out_nothing() -> None:
    objects = {each["kind"]: each for each in AgentManifest("https://llm.example.org", "clusterkey-1").objects()}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == objects["PriorityClass"]["metadata"]["name"]
    assert objects["PriorityClass"]["value"] > 0  # what pods without a class have
    assert objects["PriorityClass"]["preemptionPolicy"] == "Never"
    assert list(objects).index("PriorityClass") < list(objects).index("Deployment")


def test_the_key_stands_in_the_secret_alone() -> None:
    objects = AgentManifest("https://llm.example.org", "clusterkey-1", certificates="PEM").objects()
    assert [each["kind"] for each in objects if "clusterkey-1" in str(each)] == ["Secret"]


def test_the_agent_imports_neither_a_database_nor_a_web_framework() -> None:
    code = "import sys, llmariner.agent.heartbeat_loop, llmariner.agent.control_plane; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sqlalchemy", "fastapi", "pydantic", "httptools"} & set(loaded)
