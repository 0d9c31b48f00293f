"""What a pod runs to upload the files that a job left, against a server that speaks the two requests."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from llmariner.platform.jobs import Job
from llmariner.platform.jobs.kubernetes.authority import AUTHORITY_FILE, AUTHORITY_VARIABLE
from llmariner.platform.jobs.kubernetes.objects import DataLink, job_object, owned_objects
from llmariner.platform.jobs.kubernetes.output import upload_program
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings

from .upload_server import Platform

# The type checker sees each folder of tests by itself.
_tls_proxy: Any = import_module("tests.tunnel.tls_proxy")
JOB = Job("bj-1", "proj_1", "true", image="pytorch")


@pytest.fixture
def platform() -> Iterator[Platform]:
    server = Platform()
    yield server
    server.shutdown()
    server.server_close()


def keep(
    platform: Platform, folder: Path, path: str = "/usr/bin:/bin", url: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run what the pod would, with its folders below this one. `url`: of the platform, else its own; `more`: variables."""
    mounted = folder / "mounted"
    mounted.mkdir(exist_ok=True)
    settings = ClusterJobSettings(images={"pytorch": "pytorch:2"}, output_url=url or platform.url, disk_bytes=1 << 20)
    for name, content in upload_program(JOB, settings, "secret").items():
        text = (
            content.decode()
            .replace("/run/llmariner-output", str(mounted))
            .replace("/job/output", str(folder / "output"))
        )
        (mounted / name).write_text(text)
    environment = {"PATH": path, "http_proxy": "http://127.0.0.1:9", **more}
    line = ["/bin/sh", str(mounted / "keep")]
    return subprocess.run(line, env=environment, check=False, timeout=60, capture_output=True, text=True)


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A folder of a job that left two files, and what is none."""
    (tmp_path / "output/model").mkdir(parents=True)
    (tmp_path / "output/model/it's.bin").write_bytes(b"\0weights")
    (tmp_path / "output/a.txt").write_bytes(b"a")
    (tmp_path / "output/link").symlink_to("/etc/passwd")
    (tmp_path / "output/os.py").write_text("raise SystemExit(9)")
    os.mkfifo(tmp_path / "output/pipe")
    return tmp_path


def test_each_file_is_named_and_uploaded(platform: Platform, left: Path) -> None:
    platform.answers = [503]
    done = keep(platform, left)
    assert done.returncode == 0, done.stderr
    asked, *puts = platform.asked[1:]
    assert asked[:2] == ("/v1/batch/jobs/bj-1/results", "Bearer secret")
    names = ["a.txt", "model/it's.bin", "os.py"]
    said = json.loads(asked[2])
    assert [each["name"] for each in said["files"]] == names
    assert [each["bytes"] for each in said["files"]] == [1, 8, 19]
    assert said["left_out"] == "Not kept: 'link', which is no regular file; 'pipe', which is no regular file."
    assert puts == [("/up/0", "", b"a"), ("/up/1", "", b"\0weights"), ("/up/2", "", b"raise SystemExit(9)")]


def test_files_leave_to_a_platform_whose_certificate_has_an_authority_of_its_own(
    platform: Platform, left: Path, tmp_path: Path
) -> None:
    with _tls_proxy.terminated_tls_in_thread(platform.server_address[1], tmp_path, "127.0.0.1") as url:
        done = keep(platform, left, url=url, **{AUTHORITY_VARIABLE: str(tmp_path / _tls_proxy.CERTIFICATE)})
    assert done.returncode == 0, done.stderr
    assert len(platform.asked) == 4


def test_data_files_are_fetched_from_such_a_platform(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/pumps").write_text("pumps")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "source")
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        _tls_proxy.terminated_tls_in_thread(server.server_address[1], tmp_path, "127.0.0.1") as url,
    ):
        Thread(target=server.serve_forever, daemon=True).start()
        made = job_object(JOB, "pytorch:2", ClusterJobSettings(on_worker_cluster=True))
        made["metadata"]["uid"] = "1"
        secrets = {
            each["metadata"]["name"]: each for each in owned_objects(JOB, made, [DataLink("it", f"{url}/pumps")])
        }
        script = base64.b64decode(secrets["bj-1-data"]["data"]["fetch"]).decode().replace("cd /data", f"cd {tmp_path}")
        script = script.replace(AUTHORITY_FILE, str(tmp_path / _tls_proxy.CERTIFICATE)).replace(
            "/tmp/a", f"{tmp_path}/a"
        )
        done = subprocess.run(["/bin/sh", "-c", script], check=False, timeout=60, capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "it").read_text() == "pumps"


def test_an_upload_whose_answer_was_lost_is_done(platform: Platform, left: Path) -> None:
    platform.answers = [200, 502, 409]
    assert keep(platform, left).returncode == 0
    assert [path for path, _, _ in platform.asked[1:]] == ["/up/0", "/up/0", "/up/1", "/up/2"]


def test_a_refusal_is_in_the_jobs_output(platform: Platform, left: Path) -> None:
    platform.answers = [200, 429, 403]
    done = keep(platform, left)
    assert (done.returncode, done.stderr) == (1, "Files in output/ were not kept: The quota is spent.\n")


def test_without_python_or_files_nothing_is_asked(platform: Platform, left: Path) -> None:
    (left / "programs").mkdir()
    done = keep(platform, left, path=str(left / "programs"))
    assert (done.returncode, done.stderr) == (1, "Files in output/ were not kept: the image has no python3.\n")
    (left / "output").rename(left / "other")
    assert keep(platform, left).returncode == 0
    assert platform.asked == []


@pytest.mark.parametrize(("workers", "number"), [(1, "0"), (2, "$(RANK)")])
def test_the_first_worker_uploads_when_the_command_has_ended(tmp_path: Path, workers: int, number: str) -> None:
    settings = ClusterJobSettings(images={"pytorch": "pytorch:2"}, output_url="http://results")
    job = Job("bj-1", "proj_1", f"echo ran >> {tmp_path}/ran; exit 7", image="pytorch", worker_count=workers)
    made = job_object(job, "pytorch:2", settings)
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "/run/llmariner-output" in {each["mountPath"] for each in container["volumeMounts"]}
    assert container["command"][-1] == number
    made["metadata"]["uid"] = "1"
    names = {each["metadata"]["name"] for each in owned_objects(job, made, (), upload_program(job, settings, "t"))}
    assert {each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each} <= names
    script = tmp_path / "keep"
    script.write_text(f"echo kept >> {tmp_path}/ran; exit 1")
    argv = [each.replace("$$", "$").replace("/run/llmariner-output/keep", str(script)) for each in container["command"]]
    for index in ("0", "1"):
        done = subprocess.run([*argv[:-1], index], env={"PATH": "/usr/bin:/bin"}, check=False, timeout=60)
        assert done.returncode == 7, "the job's status does not depend on it"
    assert (tmp_path / "ran").read_text() == "ran\nkept\nran\n"


def test_a_program_of_the_platform_leaves_no_files() -> None:
    settings = ClusterJobSettings(program_image="engine:1", output_url="http://results")
    pod = job_object(Job("ftjob-1-0", "proj_1", "true"), "engine:1", settings)["spec"]["template"]["spec"]
    assert "output" not in {each["name"] for each in pod["volumes"]}


def test_the_modules_need_nothing_of_the_platform(platform: Platform, left: Path) -> None:
    keep(platform, left)
    check = "import sys; sys.path.insert(0, sys.argv[1]); import output_files, output_upload"
    check += "; print('llmariner' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", check, str(left / "mounted")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
