"""Downloads of a job's files whose links expire or whose connections end, from a server that says of what it is asked."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmariner.fine_tuning.training_program import platform as platform_module
from llmariner.fine_tuning.training_program.platform import Platform, Refused, Stopped

BLOCK = 1 << 20
CONTENT = random.Random(3).randbytes(5 * BLOCK + 77)


class Store:
    """A platform with one file. `good_for`: how many answers a link gives before it has expired.

    `cut`: the bytes of content after which a connection ends. `part`: the most that a part has. `expired`: what an expired
    link is answered. `tag`: of the content. `ranges`: whether it sends parts; `checks_tags`: whether it compares `if-range`,
    as the platform does and some stores do not. `asked`: where each answer began. `links`: how many links were asked for.
    `job_status`: of the job's requests. `cut_off`: the status of the first of these requests, whose answer is cut off.
    """

    def __init__(self) -> None:
        self.url, self.content, self.tag = "", CONTENT, '"file-1"'
        self.good_for, self.cut = 1, 2 * BLOCK + 5
        self.part = len(CONTENT)
        self.expired: tuple[int, bytes] = (
            403,
            b'{"error": {"code": "link_expired", "message": "The link has expired."}}',
        )
        self.ranges = self.checks_tags = True
        self.asked: list[int] = []
        self.uses: dict[str, int] = {}
        self.links, self.job_status, self.cut_off = 0, 200, 0

    def expires(self, path: str) -> bool:
        """Whether a link gives nothing more."""
        self.uses[path] = self.uses.get(path, 0) + 1
        return self.uses[path] > self.good_for

    def start(self, headers: object) -> int:
        """Where the answer to a request begins."""
        wanted, tag = headers.get("range"), headers.get("if-range")  # type: ignore[attr-defined]
        if not wanted or not self.ranges or (self.checks_tags and tag != self.tag):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if made.cut_off:
                self.send_response(made.cut_off)
                self.send_header("content-length", "99")
                self.end_headers()
                self.wfile.write(b'{"error": {')
                made.cut_off = 0
            elif self.path == "/job/weights":
                self.answer(200, b'{"data": [{"path": "a"}]}')
            elif self.path == "/job/links/checkpoint":
                assert self.headers["authorization"] == "Bearer token"
                made.links += 1
                self.answer(made.job_status, json.dumps({"url": f"{made.url}/link/{made.links}"}).encode())
            elif made.expires(self.path):
                self.answer(*made.expired)
            else:
                assert "authorization" not in self.headers
                start = made.start(self.headers)
                made.asked.append(start)
                end = start + made.part if start else len(made.content)
                self.answer(206 if start else 200, made.content[start:end], start, made.cut)

        def answer(self, status: int, content: bytes, start: int = 0, cut: int | None = None) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            if made.tag:
                self.send_header("etag", made.tag)
            if status == 206:
                self.send_header("content-range", f"bytes {start}-{start + len(content) - 1}/{len(made.content)}")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who does not want the content hangs up
                self.wfile.write(content[:cut])

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(store: Store, target: Path) -> bytes:
    """What a job has after it fetched its state."""
    return (
        Platform(f"{store.url}/job", "token").fetch("checkpoint", f"{store.url}/link/0", target / "state").read_bytes()
    )


@pytest.mark.parametrize(
    "expired",
    [
        Store().expired,
        (403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"),
        (400, b"<Error><Code>ExpiredToken</Code></Error>"),
    ],
    ids=["platform", "store", "expired_token"],
)
def test_a_link_that_expires_during_the_download_is_replaced(
    store: Store, tmp_path: Path, expired: tuple[int, bytes]
) -> None:
    store.expired = expired
    assert fetched(store, tmp_path) == CONTENT
    assert store.asked == [0, store.cut, 2 * store.cut], "no byte comes twice"
    assert store.links == 2


def test_a_link_that_expired_before_the_download_is_replaced(store: Store, tmp_path: Path) -> None:
    store.uses["/link/0"], store.cut = 1, len(CONTENT)
    assert fetched(store, tmp_path) == CONTENT
    assert (store.asked, store.links) == ([0], 1)


@pytest.mark.parametrize("checks_tags", [True, False])
def test_another_content_is_read_from_its_beginning(store: Store, tmp_path: Path, checks_tags: bool) -> None:
    store.good_for, store.checks_tags = 9, checks_tags
    start, other = store.start, CONTENT[::-1]

    def replaced(headers: object) -> int:
        found = start(headers)
        if store.asked:
            store.content, store.tag, store.cut = other, '"file-2"', len(other)
            found = start(headers)
        return found

    store.start = replaced  # type: ignore[method-assign]
    assert fetched(store, tmp_path) == other


@pytest.mark.parametrize(("ranges", "tag"), [(False, '"file-1"'), (True, ""), (True, 'W/"file-1"')])
def test_what_cannot_be_continued_safely_begins_again(store: Store, tmp_path: Path, ranges: bool, tag: str) -> None:
    store.good_for, store.ranges, store.tag = 9, ranges, tag
    start = store.start

    def whole_at_last(headers: object) -> int:
        if store.asked:
            store.cut = len(CONTENT)
        return start(headers)

    store.start = whole_at_last  # type: ignore[method-assign]
    assert fetched(store, tmp_path) == CONTENT
    assert store.asked == [0, 0]


def test_links_that_give_nothing_are_not_asked_for_without_end(store: Store, tmp_path: Path) -> None:
    store.good_for = 0
    with pytest.raises(Refused, match="The link has expired"):
        fetched(store, tmp_path)
    assert store.links == 3


def test_a_link_that_is_refused_for_another_reason_is_not_replaced(store: Store, tmp_path: Path) -> None:
    store.good_for = 0
    store.expired = (403, b'{"error": {"code": "link_revoked", "message": "May not do this any more."}}')
    with pytest.raises(Refused, match="May not do this any more"):
        fetched(store, tmp_path)
    assert store.links == 0


def test_a_job_that_has_ended_gets_no_link(store: Store, tmp_path: Path) -> None:
    store.job_status = 409
    with pytest.raises(Stopped):
        fetched(store, tmp_path)
    assert store.asked == [0]


def test_a_part_that_is_smaller_than_what_was_asked_for_is_continued(store: Store, tmp_path: Path) -> None:
    store.good_for, store.part = 9, 2 * BLOCK
    assert fetched(store, tmp_path) == CONTENT
    assert store.asked == [0, store.cut, store.cut + store.part]


def test_what_begins_again_each_time_is_given_up(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_module, "_TRY_SECONDS", 0.3)
    store.good_for, store.tag = 99, ""
    start = store.start

    def cut_off_elsewhere(headers: object) -> int:
        store.cut = len(CONTENT) if len(store.asked) > 20 else (2 + 2 * (len(store.asked) % 2)) * BLOCK
        return start(headers)

    store.start = cut_off_elsewhere  # type: ignore[method-assign]
    with pytest.raises(ConnectionError, match="cut off"):
        fetched(store, tmp_path)


def test_links_that_give_a_byte_each_are_not_asked_for_without_end(store: Store, tmp_path: Path) -> None:
    store.cut = 1
    start = store.start

    def whole_at_last(headers: object) -> int:
        store.cut = len(CONTENT) if store.links > 9 else 1
        return start(headers)

    store.start = whole_at_last  # type: ignore[method-assign]
    with pytest.raises(Refused, match="The link has expired"):
        fetched(store, tmp_path)
    assert store.links == 3


@pytest.mark.parametrize("status", [404, 409, 503])
def test_an_error_that_is_cut_off_ends_no_job(store: Store, status: int) -> None:
    store.cut_off = status
    assert Platform(f"{store.url}/job", "token").weights() == [{"path": "a"}]


def test_a_server_that_sends_nothing_is_given_up(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_module, "_TRY_SECONDS", 0.3)
    store.good_for, store.cut = 99, 0
    with pytest.raises(ConnectionError, match="cut off"):
        fetched(store, tmp_path)
    assert len(store.asked) < 9, "it is asked with pauses"
