"""Jobs as processes of one machine: the queue, limits, isolation, and recovery."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from llmariner.platform.jobs import DataFile, Job, Network, Phase
from llmariner.platform.jobs.local_processes.adapter import ProcessJobs
from llmariner.platform.jobs.local_processes.disk_usage import NotMeasurable, used_bytes
from llmariner.platform.jobs.local_processes.job_folder import JobFolder
from llmariner.platform.jobs.local_processes.output_log import OutputLog, read_log
from llmariner.platform.jobs.local_processes.settings import ProcessJobSettings, readable_folders
from llmariner.platform.jobs.local_processes.socket_scope import has_socket_scopes

from .conftest import Memory, output, process_jobs, run, wait_for_end, wait_for_output, wait_for_phase

SLEEP = "echo began; sleep 1000"


def place(jobs: ProcessJobs, job_id: str) -> int | None:
    status = jobs.status(job_id)
    assert status is not None
    return status.place


def test_an_observer_hears_of_a_job_and_may_remove_it(processes: ProcessJobs) -> None:
    seen: list[str] = []
    processes.subscribe(seen.append)
    processes.submit(Job("bj-1", "proj_1", "true"))
    wait_for_end(processes, "bj-1")
    processes.subscribe(processes.remove)
    processes.submit(Job("bj-2", "proj_1", "sleep 1000"))
    deadline = time.monotonic() + 60
    while processes.status("bj-2") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert set(seen) == {"bj-1", "bj-2"}


def test_projects_take_turns_in_the_queue(processes: ProcessJobs) -> None:
    for job_id in ("bj-1", "bj-2"):
        processes.submit(Job(job_id, "proj_1", SLEEP))
        wait_for_output(processes, job_id, "began")
    for job_id, project in (("bj-3", "proj_1"), ("bj-4", "proj_1"), ("bj-5", "proj_2"), ("bj-6", "proj_3")):
        processes.submit(Job(job_id, project, SLEEP))
    assert {each: place(processes, each) for each in ("bj-5", "bj-6", "bj-3", "bj-4")} == {
        "bj-5": 1,
        "bj-6": 2,
        "bj-3": 3,
        "bj-4": 4,
    }
    status = processes.status("bj-5")
    assert status is not None
    assert status.reason == "Jobs run before it."
    processes.cancel("bj-5")
    assert place(processes, "bj-3") == 2
    processes.cancel("bj-1")
    wait_for_output(processes, "bj-6", "began")
    assert place(processes, "bj-3") == 1


def test_a_brief_job_has_a_line_and_a_place_of_its_own(processes: ProcessJobs, memory: Memory, tmp_path: Path) -> None:
    for job_id in ("bj-1", "bj-2"):
        processes.submit(Job(job_id, "proj_1", SLEEP))
        wait_for_output(processes, job_id, "began")
    processes.submit(Job("bj-3", "proj_1", SLEEP))
    processes.submit(Job("ftjob-1", "proj_1", SLEEP, brief=True))
    wait_for_output(processes, "ftjob-1", "began")
    processes.submit(Job("ftjob-2", "proj_1", SLEEP, brief=True))
    processes.submit(Job("ftjob-3", "proj_2", "echo $OMP_WAIT_POLICY", brief=True))
    assert [place(processes, each) for each in ("bj-3", "ftjob-2", "ftjob-3")] == [1, 2, 1]
    processes.cancel("bj-1")
    wait_for_output(processes, "bj-3", "began")
    assert place(processes, "ftjob-3") == 1, "it takes no other place"
    users = {each: (tmp_path / "jobs" / each / "work").stat().st_uid for each in ("bj-2", "bj-3", "ftjob-1")}
    assert os.geteuid() or len(set(users.values())) == 3
    processes.cancel("ftjob-1")
    assert wait_for_end(processes, "ftjob-3").phase is Phase.SUCCEEDED
    assert output(processes, "ftjob-3") == "PASSIVE\n", "threads that wait for each other leave the cores to engines"
    assert set(memory.reserved) >= {"bj-2", "bj-3"}


def test_a_brief_job_that_has_no_end_is_ended(processes: ProcessJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmariner.platform.jobs.local_processes.settings._BRIEF_SECONDS", 0.5)
    processes.submit(Job("ftjob-1", "proj_1", SLEEP, brief=True))
    processes.submit(Job("bj-1", "proj_1", SLEEP))
    ended = wait_for_end(processes, "ftjob-1")
    assert (ended.phase, ended.code) == (Phase.FAILED, "deadline_exceeded")
    wait_for_output(processes, "bj-1", "began")


def test_a_job_waits_for_memory_and_gives_it_back(processes: ProcessJobs, memory: Memory) -> None:
    memory.reason = "Models are busy."
    processes.submit(Job("bj-1", "proj_1", "true"))
    deadline = time.monotonic() + 30
    while (status := processes.status("bj-1")) is None or status.reason != "Models are busy.":
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    assert (status.phase, status.place) == (Phase.QUEUED, 1)
    memory.reason = ""
    assert wait_for_end(processes, "bj-1").phase is Phase.SUCCEEDED
    while memory.reserved:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("python3 -c 'x = bytearray(400 << 20); import time; time.sleep(1000)'", "out_of_memory"),
        ("for i in 1 2 3 4 5 6 7; do head -c 15000000 /dev/zero > /dev/shm/$i; done; sleep 1000 & "
         "python3 -c 'x = bytearray(120 << 20); import time; time.sleep(1000)'", "out_of_memory"),
        ("for i in 1 2; do head -c 20000000 /dev/zero > $i; done; sleep 1000", "disk_limit_exceeded"),
        ("python3 -c \"import tempfile, time; f = [tempfile.TemporaryFile() for _ in range(2)]; "
         "[each.write(bytes(20 << 20)) for each in f]; time.sleep(1000)\"", "disk_limit_exceeded"),
        ("d=.; for i in $(seq 70); do d=$d/d; done; mkdir -p $d; sleep 1000", "disk_limit_exceeded"),
    ],
)  # fmt: skip
def test_a_job_is_ended_at_its_limits(processes: ProcessJobs, command: str, code: str) -> None:
    processes.submit(Job("bj-1", "proj_1", command))
    ended = wait_for_end(processes, "bj-1")
    assert (ended.phase, ended.code) == (Phase.FAILED, code), (ended, output(processes, "bj-1"))


def test_a_job_ends_although_somebody_else_holds_its_output(processes: ProcessJobs, tmp_path: Path) -> None:
    mark = f"held-{os.getpid()}"
    processes.submit(Job("bj-1", "proj_1", f": {mark}; echo began; while [ ! -e go ]; do sleep 0.1; done; echo ended"))
    wait_for_output(processes, "bj-1", "began")
    output_of_job = os.open(f"/proc/{process_with(mark)}/fd/1", os.O_WRONLY)
    try:
        (tmp_path / "jobs" / "bj-1" / "work" / "go").touch()
        assert wait_for_end(processes, "bj-1").phase is Phase.SUCCEEDED
        assert output(processes, "bj-1") == "began\nended\n"
    finally:
        os.close(output_of_job)


def process_with(text: str) -> int:
    """A process of the machine with this text in its command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError(text)


def test_a_job_is_ended_at_its_deadline(tmp_path: Path, memory: Memory) -> None:
    jobs = process_jobs(tmp_path, memory, seconds=1.0)
    jobs.start()
    if jobs.problem:
        pytest.skip(jobs.problem)
    jobs.submit(Job("bj-1", "proj_1", SLEEP))
    assert wait_for_end(jobs, "bj-1").code == "deadline_exceeded"
    jobs.close()


def test_a_job_sees_nothing_of_the_machine(processes: ProcessJobs, tmp_path: Path) -> None:
    os.environ["A_SECRET"] = "of the platform"
    (tmp_path / "jobs" / "secret").mkdir(mode=0o755)
    looks = [
        "env",
        f"ls -d {tmp_path} {Path.home()}/.ssh /run /var /root/.ssh /usr/share/*",
        "ls /proc | grep -c '^[0-9]'",
        "cat /proc/1/environ /proc/1/mem /proc/1/root/etc/shadow",
        "touch /new /usr/new /etc/new data/new /tmp/new",
        "id -u; cat /etc/shadow; kill -9 1; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs'",
        "ls /job /; cat /proc/mounts",
        "for each in ipc mnt pid uts; do readlink /proc/self/ns/$each; done",
        "grep -E '^Groups|processes|open files' /proc/self/status /proc/self/limits",
    ]
    before = os.getgroups()
    if os.geteuid() == 0:
        os.setgroups([0, 4])
    processes.submit(Job("bj-1", "proj_1", "; ".join(looks)))
    wait_for_end(processes, "bj-1")
    del os.environ["A_SECRET"]
    if os.geteuid() == 0:
        os.setgroups(before)
    text = output(processes, "bj-1")
    assert "A_SECRET" not in text
    assert "of the platform" not in text
    assert "CapEff:\t0000000000000000\nNoNewPrivs:\t1" in text
    for path in (tmp_path, "/run", "/var", "/usr/share/*"):
        assert f"cannot access '{path}'" in text
    for path in ("/new", "/usr/new", "/etc/new"):
        assert f"cannot touch '{path}'" in text
    assert "cannot touch 'data/new'" not in text
    assert text.count("Permission denied") >= 3
    assert "root:" not in text
    for each in ("ipc", "mnt", "pid", "uts"):
        assert f"\n{each}:[" in text
        assert os.readlink(f"/proc/self/ns/{each}") not in text
    assert re.search(r"Max processes +1024 +1024 ", text)
    assert re.search(r"Max open files +4096 +4096 ", text)
    assert os.geteuid() != 0 or re.search(r"Groups:\s*\n", text)
    assert f"\n{os.getuid()}\n" not in text


def test_a_job_gets_no_namespace_no_keys_and_no_memory_that_is_not_measured(processes: ProcessJobs) -> None:
    program = """import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.clone.argtypes = None
stack = ctypes.create_string_buffer(65536)
child = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)
top = ctypes.c_void_p(ctypes.addressof(stack) + 65536)
calls = {
    "unshare": lambda: libc.unshare(0x10000000),
    "unshare with others": lambda: libc.unshare(0x10000000 | 0x20000),
    "clone": lambda: libc.clone(child, top, 0x10000000 | 17, None),
    "clone3": lambda: libc.syscall(435, None, 0),
    "memfd": lambda: libc.memfd_create(b"x", 0),
    "shm": lambda: libc.shmget(0, 4096, 0o1600),
    "msg": lambda: libc.msgget(0, 0o1600),
    "keyctl": lambda: libc.syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3, 0),
}
for name, call in calls.items():
    print(name, os.strerror(ctypes.get_errno()) if call() == -1 else "done", flush=True)
import threading
threading.Thread(target=print, args=("a thread",)).start()
"""
    processes.submit(Job("bj-1", "proj_1", "python3 scripts/try.py", scripts={"try.py": program.encode()}))
    assert wait_for_end(processes, "bj-1").phase is Phase.SUCCEEDED
    assert output(processes, "bj-1").splitlines() == [
        "unshare Operation not permitted",
        "unshare with others Operation not permitted",
        "clone Operation not permitted",
        *(f"{name} Function not implemented" for name in ("clone3", "memfd", "shm", "msg", "keyctl")),
        "a thread",
    ]


_SOCKETS = """import socket, sys
def attempt(what, family, address, kind):
    with socket.socket(family, kind) as each:
        try:
            print(what, each.connect(address) or "reached", flush=True)
        except OSError as error:
            print(what, error.strerror, flush=True)
def serve(family, address):
    server = socket.socket(family)
    server.bind(address)
    server.listen()
    return server
own = serve(socket.AF_UNIX, "\\0job-own"), serve(socket.AF_INET, ("127.0.0.1", 0))
attempt("own abstract", socket.AF_UNIX, "\\0job-own", socket.SOCK_STREAM)
attempt("own port", socket.AF_INET, own[1].getsockname(), socket.SOCK_STREAM)
attempt("abstract", socket.AF_UNIX, "\\0" + sys.argv[1], socket.SOCK_STREAM)
attempt("port", socket.AF_INET, ("127.0.0.1", int(sys.argv[2])), socket.SOCK_STREAM)
"""


@pytest.mark.parametrize("network", Network)
def test_a_job_reaches_no_sockets_of_the_machine_that_it_must_not(processes: ProcessJobs, network: Network) -> None:
    name = f"of-the-machine-{os.getpid()}-{network}"
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_INET) as port:
        abstract.bind(f"\0{name}")
        port.bind(("127.0.0.1", 0))
        abstract.listen()
        port.listen()
        program = f"python3 scripts/try.py {name} {port.getsockname()[1]}"
        scripts = {"try.py": _SOCKETS.encode()}
        command = f"{program}; echo begun; sleep 1000"
        processes.submit(Job("bj-1", "proj_1", command, scripts=scripts, network=network))
        wait_for_output(processes, "bj-1", "begun")
        seen = "Operation not permitted" if has_socket_scopes() else "reached"
        others = (
            [f"abstract {seen}", "port reached"]
            if network is Network.MACHINE
            else [f"{each} Connection refused" for each in ("abstract", "port")]
        )
        expected = ["own abstract reached", "own port reached", *others]
        assert output(processes, "bj-1").splitlines()[:4] == expected
        assert run(processes, "bj-1", program.split()).stdout.splitlines()[2:] == others


_WORKER = """import os, socket, time
rank, address = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
assert (os.environ["WORLD_SIZE"], os.environ["PET_NODE_RANK"]) == ("3", str(rank))
if rank == 0:
    with socket.create_server(address) as server:
        found = sorted(server.accept()[0].recv(1) for _ in range(2))
    print("met", *found, flush=True)
else:
    for attempt in range(600):
        try:
            socket.create_connection(address).sendall(str(rank).encode())
            break
        except OSError:
            time.sleep(0.1)
"""


def test_workers_meet_and_the_first_that_fails_ends_the_others(processes: ProcessJobs) -> None:
    scripts = {"work.py": _WORKER.encode()}
    processes.submit(Job("bj-1", "proj_1", "python3 scripts/work.py", scripts=scripts, worker_count=3))
    assert wait_for_end(processes, "bj-1").phase is Phase.SUCCEEDED, output(processes, "bj-1")
    assert output(processes, "bj-1") == "met b'1' b'2'\n"
    processes.submit(Job("bj-0", "proj_1", "echo once", worker_count=3, starts_workers=True))
    wait_for_end(processes, "bj-0")
    assert output(processes, "bj-0") == "once\n", "its command starts the others"
    processes.submit(Job("bj-2", "proj_1", 'test "$RANK" = 1 && exit 3; sleep 1000', worker_count=3))
    ended = wait_for_end(processes, "bj-2")
    assert (ended.phase, ended.code, ended.reason) == (
        Phase.FAILED,
        "exit_code",
        "The command ended with exit code 3.",
    )


def test_of_an_interpreter_in_a_home_folder_only_its_own_folders_are_readable(tmp_path: Path) -> None:
    for folder in ("bin", "venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin/python3").touch()
    (tmp_path / "venv/bin/python").symlink_to(tmp_path / "bin/python3")
    found = readable_folders(tmp_path / "venv/bin/python")
    assert found == tuple(str(tmp_path / name) for name in ("venv", "bin", "lib", "lib64"))


def test_output_beyond_a_limit_is_dropped_from_its_beginning(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "log", segment_bytes=1000)
    for number in range(500):
        if number in (50, 450):  # the job is started again
            log = OutputLog(tmp_path / "log", segment_bytes=1000)
        log.write(b"%09d\n" % number)
    part = read_log(tmp_path / "log", 0)
    assert part.start > 0
    assert part.data.startswith(b"%09d\n" % (part.start // 10))
    whole, at = b"", part.start
    while (part := read_log(tmp_path / "log", at)).data:
        whole, at = whole + part.data, part.end
    assert at == 5000
    assert whole.endswith(b"000000499\n")
    assert 1000 <= len(whole) <= 2000


def test_a_folder_with_too_many_files_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to("/")
    (tmp_path / "a" / "file").write_bytes(b"x" * 100_000)
    assert 100_000 <= used_bytes(tmp_path) < 200_000
    monkeypatch.setattr("llmariner.platform.jobs.local_processes.disk_usage._MAX_ENTRIES", 2)
    with pytest.raises(NotMeasurable, match="more than 2 files"):
        used_bytes(tmp_path)


def test_the_queue_survives_a_restart_and_what_ran_was_interrupted(tmp_path: Path, memory: Memory) -> None:
    first = process_jobs(tmp_path, memory)
    first.start()
    if first.problem:
        pytest.skip(first.problem)
    files = (DataFile("file-1", "pumps.txt", 6),)
    first.submit(Job("bj-1", "proj_1", SLEEP))
    wait_for_output(first, "bj-1", "began")
    first.submit(Job("bj-2", "proj_1", 'echo "$A" $(cat scripts/a data/pumps.txt)', {"A": "b"}, {"a": b"c"}, files))
    (tmp_path / "bj-3").mkdir()
    (tmp_path / "bj-3" / "job.json.part").write_text("{")
    first.close()
    second = process_jobs(tmp_path, memory)
    second.start()
    ended = second.status("bj-1")
    assert ended is not None
    assert (ended.phase, ended.code) == (Phase.FAILED, "interrupted")
    assert wait_for_end(second, "bj-2").phase is Phase.SUCCEEDED
    assert output(second, "bj-2") == "b cpumps\n"
    assert second.status("bj-3") is None
    assert not (tmp_path / "bj-3").exists()
    second.close()


def test_what_may_be_started_again_is_after_a_restart_unless_it_is_paused(tmp_path: Path, memory: Memory) -> None:
    job = Job("bj-1", "proj_1", SLEEP, backoff_limit=1)
    for begun in range(3):
        jobs = process_jobs(tmp_path, memory)
        jobs.start()
        if jobs.problem:
            pytest.skip(jobs.problem)
        if begun < 2:
            jobs.submit(job)
            wait_for_output(jobs, "bj-1", "began\n" * (begun + 1))
        if begun == 1:
            assert wait_for_phase(jobs, "bj-1", Phase.RUNNING).restarts == 1
            jobs.pause("bj-1")
        if begun == 2:
            assert wait_for_phase(jobs, "bj-1", Phase.PAUSED).restarts == 1
            jobs.resume("bj-1")
            wait_for_output(jobs, "bj-1", "began\n" * 3)
        jobs.close()
    ended = jobs.status("bj-1")
    assert ended is not None
    assert (ended.phase, ended.code, ended.restarts) == (Phase.FAILED, "interrupted", 1)


def test_a_job_whose_end_could_not_be_noted_runs_no_second_time(processes: ProcessJobs, tmp_path: Path) -> None:
    job = Job("bj-1", "proj_1", "echo ran")
    folder = JobFolder(tmp_path / "jobs" / "bj-1")
    folder.save(job)
    folder.mark_started()
    for status in (processes.submit(job), processes.status("bj-1")):
        assert status is not None
        assert (status.phase, status.code) == (Phase.FAILED, "interrupted")


ESCAPE = """\
import os
mine = os.sched_getaffinity(0)
try:
    os.sched_setaffinity(0, range(os.cpu_count()))
except PermissionError:
    pass
print(len(mine), os.sched_getaffinity(0) == mine, os.environ["OMP_NUM_THREADS"])
"""


def test_a_job_stays_on_its_cores(tmp_path: Path, memory: Memory) -> None:
    jobs = process_jobs(tmp_path / "jobs", memory, cores=1)
    jobs.start()
    try:
        if jobs.problem:
            pytest.skip(jobs.problem)
        scripts = {"escape.py": ESCAPE.encode()}
        jobs.submit(Job("bj-1", "proj_1", "python3 scripts/escape.py; echo began; sleep 1000", scripts=scripts))
        wait_for_output(jobs, "bj-1", "began")
        assert output(jobs, "bj-1").startswith("1 True 1\n")
        assert run(jobs, "bj-1", ["python3", "scripts/escape.py"]).stdout == "1 True 1\n", "what exec starts too"
    finally:
        jobs.close()


def test_jobs_share_a_core_only_where_there_are_too_few(tmp_path: Path) -> None:
    platform = sorted(os.sched_getaffinity(0))

    def processors(slots: int, cores: int = 0) -> list[tuple[int, ...]]:
        settings = ProcessJobSettings(tmp_path, Path(sys.executable), "here", 1, 1, 1, 1.0, slots=slots, cores=cores)
        return [settings.processors(each) for each in settings.places(brief=False)]

    assert processors(1) == [tuple(platform)]
    assert processors(1, cores=1000) == [tuple(platform)]
    assert [len(each) for each in processors(2, cores=1)] == [1, 1]
    each_their_own = processors(len(platform))
    assert sorted(each_their_own) == [(each,) for each in platform]
    assert len(processors(len(platform) + 1)[-1]) == 1


_ASK_PROXY = """\
import os, sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=60)
except OSError as error:
    print(error, flush=True)
"""


def test_the_proxy_of_a_job_leads_to_no_service_of_the_machine(processes: ProcessJobs) -> None:
    scripts = {"ask.py": _ASK_PROXY.encode()}
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()
        urls = [
            "https://127.0.0.2/",
            "https://169.254.169.254/",
            f"https://localhost.:{port.getsockname()[1]}/",
            "http://192.0.2.1/",
        ]
        asked = "; ".join(f"python3 scripts/ask.py {url}" for url in urls)
        processes.submit(Job("bj-1", "proj_1", asked, scripts=scripts, network=Network.INTERNET))
        assert wait_for_end(processes, "bj-1").phase is Phase.SUCCEEDED
        port.setblocking(False)
        with pytest.raises(BlockingIOError):
            port.accept()
    lines = output(processes, "bj-1").splitlines()
    assert [("403" in each) for each in lines] == [True] * 4, lines
