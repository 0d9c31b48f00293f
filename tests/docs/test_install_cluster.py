"""docs/install-cluster.md, line by line: its paths exist, its commands parse, and with a cluster they run.

Without a cluster every command is parsed as its program would: paths, overlays, objects, options, settings. With
LLMARINER_TEST_KUBECONFIG the commands that only look are run against it; with LLMARINER_TEST_INSTALL besides, all of them
up to the first answer, with the overlay and the host that this names as OVERLAY,HOST.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from llmariner.cli.main import llma
from llmariner.diagnostics.api_resources import DEPENDENCIES
from llmariner.diagnostics.checks import check_names

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs/install-cluster.md").read_text()
KUBECTL = str(Path(sys.executable).with_name("kubectl"))
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S))
OVERLAYS = ("playground", "production")
REAL = "LLMARINER_TEST_KUBECONFIG"
INSTALL = "LLMARINER_TEST_INSTALL"

# Objects that the page names and no manifest contains: third parties or Jobs create them.
ELSEWHERE = {
    ("knative-serving", "configmap", "config-network"),
    ("knative-serving", "configmap", "config-defaults"),
    ("knative-serving", "configmap", "config-features"),
    ("llmariner", "secret", "llmariner-admin-key"),
    ("llmariner", "secret", "llmariner-secrets"),
    ("llmariner", "secret", "llmariner-postgres"),
}
# kubectl's words for kinds.
KINDS = {
    "configmap": "ConfigMap",
    "secret": "Secret",
    "gateway": "Gateway",
    "gatewayclasses": "GatewayClass",
    "job": "Job",
    "jobs": "Job",
    "inferenceservices": "InferenceService",
    "services.serving.knative.dev": "Service",
}


def lines(block: str) -> list[str]:
    """A block's commands, a line each."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in a line, those inside $(...) and behind pipes, too."""
    for inner in re.findall(r"\$\((.*)\)", text):
        yield from commands(inner)
    lexer = shlex.shlex(re.sub(r"\$\((.*)\)", "X", text), posix=True, punctuation_chars="|;&>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|;&"):
            yield words
            words = []
        elif word.startswith(">"):
            yield words
            return
        else:
            words.append(word)
    yield words


ALL = [words for block in BLOCKS for line in lines(block) for words in commands(line) if words]
ALL += [words for span in SPANS if re.match("(kubectl|llma) [a-z-]", span) for words in commands(span)]


@functools.cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    shown = subprocess.run(
        [KUBECTL, "kustomize", CHECKOUT / "manifests/overlays" / overlay], check=True, capture_output=True, text=True
    )
    return list(yaml.load_all(shown.stdout, Loader=yaml.CSafeLoader))


@functools.cache
def kubectl_options() -> set[str]:
    """Every option of the verbs that the page uses, as this kubectl has them."""
    verbs = ("apply", "create", "delete", "diff", "get", "logs", "patch", "wait")
    helps = [*([verb, "--help"] for verb in verbs), ["options"], ["create", "secret", "generic", "--help"]]
    texts = [subprocess.run([KUBECTL, *each], check=True, capture_output=True, text=True).stdout for each in helps]
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "\n".join(texts)))


def test_the_page_has_commands() -> None:
    assert len(BLOCKS) > 12
    assert len([words for words in ALL if words[0] == "kubectl"]) > 20
    assert len([words for words in ALL if words[0] == "llma"]) > 8


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0][:50])
def test_every_block_is_shell(block: str) -> None:
    result = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


KUBECTLS = [words for words in ALL if words[0] == "kubectl"]


@pytest.mark.parametrize("words", KUBECTLS, ids=" ".join)
def test_every_kubectl_command_is_valid_and_its_objects_exist(words: list[str]) -> None:
    options = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert options - kubectl_options() == set()
    for flag in ("-k", "-f"):
        if flag in words:
            place = CHECKOUT / words[words.index(flag) + 1]
            assert place.is_dir() if flag == "-k" else place.exists()
    if "-k" in words:
        assert rendered(words[words.index("-k") + 1].rpartition("/")[2])
    namespace = words[words.index("-n") + 1] if "-n" in words else ""
    known = {"knative-serving"} | {o["metadata"]["name"] for o in rendered("playground") if o["kind"] == "Namespace"}
    assert namespace in known | {""}
    for kind, name in objects(words):
        assert kind in KINDS
        assert (namespace, kind, name) in ELSEWHERE or in_every_overlay(namespace, KINDS[kind], name), (kind, name)
    if "-l" in words:
        assert selects(namespace, words[words.index("-l") + 1])


def objects(words: list[str]) -> Iterator[tuple[str, str]]:
    """(kind, name) of the object that a command names; the name is empty where it means all of a kind."""
    taking = {"-n", "-f", "-k", "-l", "-p", "-o", "--type"}
    bare = [word for before, word in zip(["", *words], words, strict=False)
            if not word.startswith("-") and before not in taking][1:]  # fmt: skip
    if bare[0] in ("apply", "diff", "logs", "auth") or "-k" in words or "-f" in words:
        return
    kind, *names = [word for word in bare[1:] if word != "generic"]
    yield kind, names[0] if names else ""


def in_every_overlay(namespace: str, kind: str, name: str) -> bool:
    if not name:
        return True
    wanted = namespace, kind, name
    return all(wanted in {(o["metadata"].get("namespace", ""), o["kind"], o["metadata"]["name"]) for o in rendered(overlay)}
               for overlay in OVERLAYS)  # fmt: skip


def selects(namespace: str, selector: str) -> bool:
    """Whether a Job of every overlay bears the label, on itself and on its pods."""
    key, _, value = selector.partition("=")
    return all(
        any(
            o["kind"] == "Job"
            and o["metadata"]["namespace"] == namespace
            and o["metadata"]["labels"].get(key) == value == o["spec"]["template"]["metadata"]["labels"].get(key)
            for o in rendered(overlay)
        )
        for overlay in OVERLAYS
    )


LLMAS = [words for words in ALL if words[0] == "llma"]


@pytest.mark.parametrize("words", LLMAS, ids=" ".join)
def test_every_llma_command_parses(words: list[str]) -> None:
    command: click.Command = llma
    # With its names of the help option, which click keeps with each command for later tests of this process.
    context, rest = click.Context(llma, info_name="llma", **llma.context_settings), words[1:]
    while isinstance(command, click.Group) and rest:
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        context = click.Context(command, parent=context, info_name=command.name)
    if words == ["llma", "models", "get"]:  # named in prose, without its model
        rest = ["MODEL"]
    command.make_context(command.name, list(rest), parent=context.parent)


def test_every_other_program_is_a_common_one() -> None:
    shell = {"do", "done", "export", "for", "registry=localhost:5000", "key=X", "printf", "base64", "git", "docker"}
    others = {words[0] for words in ALL} - {"kubectl", "llma"} - shell
    assert {word for word in others if not word.startswith(("$EDITOR", "~/.llma/bin/"))} == {"python3"}


def test_every_path_exists() -> None:
    paths = [
        span for span in SPANS if re.fullmatch(r"(manifests|docs|kserve|images|functions|eventing)/[\w./-]+", span)
    ]
    assert len(paths) >= 2
    assert [path for path in paths if not (CHECKOUT / path).exists()] == []


def test_every_setting_exists() -> None:
    named = {span for span in SPANS if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", span)}
    settings = "\n".join((CHECKOUT / f"manifests/overlays/{overlay}/settings.env").read_text() for overlay in OVERLAYS)
    there = set(re.findall(r"^#?([A-Z_]+)=", settings, re.M))
    assert len(named) > 10
    assert named - there == set()
    # And conversely: every setting of the file is explained.
    assert there - named == set()


def test_the_host_and_registry_match_the_settings() -> None:
    settings = dict(
        line.split("=", 1)
        for line in (CHECKOUT / "manifests/overlays/playground/settings.env").read_text().splitlines()
        if re.match(r"[A-Z_]+=", line)
    )
    assert f"http://{settings['PUBLIC_HOST']}/v1" in PAGE
    assert f"registry={settings['IMAGE_REGISTRY']}\n" in PAGE


def test_the_images_match_the_manifests() -> None:
    (block,) = [block for block in BLOCKS if "docker build" in block]
    built = dict(re.findall(r"^  ([\w-]+)=(\S+)", block, re.M))
    version = re.findall(r":(\d+\.\d+\.\d+)\"", block)
    run = {
        container["image"]
        for overlay in OVERLAYS
        for each in rendered(overlay)
        if each["kind"] in ("Service", "Job") and "template" in each["spec"]
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert {image.rpartition("/")[2] for image in run} == {f"{name}:{version[0]}" for name in built}
    assert all(re.search(r"/llmariner/[^/]+$", image) for image in run)
    for name, function in built.items():
        (declared,) = [file for file in ("func.yaml", "trigger.yaml") if (CHECKOUT / function / file).is_file()][:1]
        assert set(extras(CHECKOUT / function / declared)) == set(name.split("-")[1:])


def extras(declaration: Path) -> list[str]:
    """What a function's declaration says that its image must hold."""
    (said,) = re.findall(r"llmariner\.ai/extras: *\"?([\w, -]*)\"?", declaration.read_text())
    return [each.strip() for each in said.split(",") if each.strip()]


def test_the_versions_match_the_cluster_check() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    tested = {cells[0]: cells[1] for cells in rows if len(cells) == 4}
    for project in DEPENDENCIES:
        (row,) = [name for name in tested if name.startswith(project.name)]
        assert tested[row] == project.release


def test_every_check_exists() -> None:
    rows = [row for row in PAGE.splitlines() if row.startswith("|")]
    lists = [listed for row in rows for listed in re.findall(r"check ((?:`[^`]+`(?:, )?)+)", row)]
    named = {name for listed in lists for name in re.findall(r"`([^`]+)`", listed)}
    assert len(named) > 15
    assert named - set(check_names()) == set()


def shell(block: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block as a reader would, in the checkout, with this environment's programs first."""
    binaries = str(Path(sys.executable).parent)
    environment = {**os.environ, "KUBECONFIG": os.environ[REAL], "HOME": str(folder), "EDITOR": "true"}
    environment["PATH"] = f"{binaries}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


LOOKING = [words for words in ALL if words[:2] == ["kubectl", "get"] or words[:3] == ["llma", "cluster", "check"]
           or words == ["llma", "cluster", "status"]]  # fmt: skip


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no cluster")
@pytest.mark.parametrize("words", LOOKING, ids=" ".join)
def test_read_only_commands_succeed_on_a_cluster(words: list[str], tmp_path: Path) -> None:
    done = shell(shlex.join(words), tmp_path)
    assert done.returncode in ((0, 1) if "check" in words else (0,)), done.stderr
    assert done.stdout


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no cluster")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cluster_has_the_kinds_of_an_overlay_or_the_check_reports_them(overlay: str, tmp_path: Path) -> None:
    done = shell("llma cluster check --prerequisites -o json || true", tmp_path)
    absent = {each["check"] for each in json.loads(done.stdout)["checks"] if each["result"] != "ok"}
    for each in rendered(overlay):
        group = each["apiVersion"].rpartition("/")[0]
        plural = shell(f"kubectl api-resources --api-group={group} -o name", tmp_path).stdout
        if not plural:
            assert absent & {p.name for p in DEPENDENCIES if any(v.startswith(group) for v in p.kinds)}, each["kind"]


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S))


@pytest.mark.skipif(INSTALL not in os.environ or REAL not in os.environ, reason=f"{INSTALL} names no OVERLAY,HOST")
@pytest.mark.timeout(3600)
def test_the_page_ends_with_a_response(tmp_path: Path) -> None:
    """Images and PostgreSQL are the overlay's own business here; the rest is run as it stands, in one shell."""
    overlay, _, host = os.environ[INSTALL].partition(",")
    steps = [
        "kubectl apply --server-side -f manifests/prerequisites",
        "kubectl apply -k" + section("5. Install").partition("kubectl apply -k")[2],
        section("6. The first answer"),
    ]
    block = "\n".join(steps).replace("overlays/playground", f"overlays/{overlay}")
    block = block.replace("api.llmariner.localhost", host).replace("llma cluster status --watch", "llma cluster status")
    block = block.replace("> llmariner-secrets.yaml", f"> {tmp_path}/llmariner-secrets.yaml")
    done = shell(block, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Paris" in done.stdout
