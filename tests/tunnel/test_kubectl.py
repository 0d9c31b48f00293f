"""The kubeconfig that `llma` writes, with the real kubectl: its prefix, its credential, and the message of a refusal."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from .installation import Installation, KubernetesApi, running_agent, serving
from .tls_proxy import CERTIFICATE, terminated_tls

PROGRAMS = Path(sys.executable).parent


async def run(*words: str, env: dict[str, str]) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *words, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), error.decode()


def test_kubectl_works_with_the_kubeconfig_and_shows_why_something_is_refused(tmp_path: Path) -> None:
    installation, api = Installation(tmp_path), KubernetesApi()

    async def scenario() -> None:
        async with (
            serving(installation, api) as (replica,),
            running_agent(installation, api, replica),
            terminated_tls(replica.port, tmp_path) as url,
        ):
            env = {
                "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "LLMARINER_HOME": str(tmp_path),
                "LLMARINER_BASE_URL": f"{url}/v1",
                "LLMARINER_API_KEY": installation.key or "",
            }
            command = ("llma", "clusters", "kubeconfig", installation.cluster.id, "-n", "team")
            plain = {**env, "LLMARINER_BASE_URL": f"{replica.url}/v1"}
            assert "https only" in (await run(*command, env=plain))[2]
            authority = ("--certificate-authority", str(tmp_path / CERTIFICATE))
            code, kubeconfig, error = await run(*command, *authority, env=env)
            assert code == 0, error
            assert (installation.key or "") not in kubeconfig
            file = tmp_path / "kubeconfig"
            file.write_text(kubeconfig)
            kubectl = ("kubectl", f"--kubeconfig={file}", "get", "--raw")
            code, out, error = await run(*kubectl, "/api/v1/namespaces/team/pods", env=env)
            assert (code, out) == (0, '{"kind":"PodList","items":[]}'), error
            code, out, error = await run(*kubectl, "/api/v1/namespaces/other/pods", env=env)
            assert code == 1
            assert "Your project has no namespace 'other' on this cluster. It has: team." in error
            installation.assign([])
            code, out, error = await run("kubectl", f"--kubeconfig={file}", "get", "pods", env=env)
            assert code == 1
            assert "Your project has no namespace on a cluster with that id." in error

    try:
        asyncio.run(asyncio.wait_for(scenario(), 120))
    finally:
        installation.context.database.close()
    assert [request["target"] for request in api.requests] == ["/api/v1/namespaces/team/pods"]


def test_permissions_name_every_group_and_no_other(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, str, str]:
        env = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": str(tmp_path), "LLMARINER_HOME": str(tmp_path)}
        return await run("llma", "admin", "clusters", "permissions", "proj_1=team-a", "proj_1=team-b", env=env)

    code, out, error = asyncio.run(scenario())
    assert code == 0, error
    import yaml

    objects = list(yaml.safe_load_all(out))
    impersonation = objects[0]["rules"]
    assert [rule.get("resourceNames") for rule in impersonation[:2]] == [
        ["llmariner:session"],
        ["llmariner:project:proj_1:member", "llmariner:project:proj_1:viewer"],
    ]
    assert impersonation[2]["resources"] == ["userextras/llmariner.ai/user"]
    kinds = [(each["kind"], each["metadata"].get("namespace")) for each in objects]
    assert kinds.count(("Role", "team-a")) == kinds.count(("RoleBinding", "team-b")) == 2
    assert not any("secrets" in rule["resources"] for each in objects for rule in each.get("rules", ()))
