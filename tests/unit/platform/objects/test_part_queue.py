"""Requests to S3 that run in parallel: bounded, and looked at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from llmariner.platform.objects import ObjectInfo
from llmariner.platform.objects.s3_transfers import PartQueue, S3Upload


def test_many_calls_of_one_upload_leave_turns_to_another() -> None:
    queue, running, most, lock = PartQueue(2), 0, 0, threading.Lock()
    begun, may_end = threading.Semaphore(0), threading.Event()

    def look(key: str) -> ObjectInfo:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        begun.release()
        assert may_end.wait(60)
        with lock:
            running -= 1
        return ObjectInfo(key, 1, 0.0)

    keys = [f"uploads/part_{number}" for number in range(1000)]
    taken: list[str] = []

    def numbered() -> Any:
        for key in keys:
            taken.append(key)
            yield key

    found: list[ObjectInfo] = []
    mapping = threading.Thread(target=lambda: found.extend(queue.map(look, numbered())))
    mapping.start()
    assert begun.acquire(timeout=60)
    assert begun.acquire(timeout=60)
    mapping.join(0.2)
    assert len(taken) <= 3  # the others are not in the queue of the threads, before the part of another upload
    may_end.set()
    assert queue.submit(lambda: {"ETag": "1"}).result(60) == {"ETag": "1"}
    mapping.join(60)
    queue.close()
    assert [each.key for each in found] == keys
    assert most <= 2


class Client:
    """Takes parts, and refuses one."""

    def __init__(self, refused: int) -> None:
        self.refused = refused

    def create_multipart_upload(self, **_: Any) -> dict[str, str]:
        return {"UploadId": "1"}

    def upload_part(self, *, PartNumber: int, **_: Any) -> dict[str, str]:  # noqa: N803 - the parameter of boto3
        if PartNumber == self.refused:
            raise RuntimeError("refused")
        return {"ETag": str(PartNumber)}

    def abort_multipart_upload(self, **_: Any) -> None:
        self.refused = -1


def test_the_error_of_a_part_ends_an_upload_of_many() -> None:
    queue, client = PartQueue(2), Client(refused=5)

    def send() -> None:
        with S3Upload(client, {"Key": "files/1"}, {}, queue) as upload:
            for _ in range(10_000):
                upload.add(b"x")

    with pytest.raises(RuntimeError, match="refused"):
        send()
    queue.close()
    assert client.refused == -1
