"""Model files from a real S3-compatible store: listings over several pages, digests, ranges, refusals."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmariner.object_settings import S3Settings
from llmariner.platform.model_files import FilesUnavailable, TransferInterrupted
from llmariner.platform.model_files.blobs import BlobStore
from llmariner.platform.model_files.fetch import FetchProgress, fetch_files
from llmariner.platform.model_files.s3 import S3Source

from .conftest import BUCKET

WHOLE = random.Random(4).randbytes(9 << 20)


def ignore(_progress: FetchProgress) -> None:
    """Ignore the progress."""


def put_parts(client: Any, key: str, data: bytes) -> None:
    """Store an object in parts of 5 MiB; its ETag is no MD5 then."""
    target = {"Bucket": BUCKET, "Key": key}
    upload = client.create_multipart_upload(**target)["UploadId"]
    tags = [
        client.upload_part(**target, UploadId=upload, PartNumber=number, Body=data[at : at + (5 << 20)])["ETag"]
        for number, at in enumerate(range(0, len(data), 5 << 20), 1)
    ]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})


def test_a_folder_of_objects_is_fetched(client: Any, settings: S3Settings, tmp_path: Path) -> None:
    folder = f"{settings.prefix}model"
    small = {f"shards/{number:04}.json": b"%d" % number for number in range(20)}
    for name, content in small.items():
        client.put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=content)
    client.put_object(Bucket=BUCKET, Key=f"{folder}/", Body=b"")
    client.put_object(Bucket=BUCKET, Key=f"{folder}-other/x.json", Body=b"not this one")
    put_parts(client, f"{folder}/model.safetensors", WHOLE)
    with contextlib.closing(S3Source(f"s3://{BUCKET}/{folder}", settings)) as source:
        files = source.list_files().files
        target = tmp_path / "m"
        fetch_files(source, files, target, BlobStore(tmp_path / "blobs"), ignore)
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {**small, "model.safetensors": WHOLE}
    assert {bool(file.md5 or file.sha256) for file in files if file.path != "model.safetensors"} == {True}


def test_a_sha256_of_the_store_is_checked(client: Any, settings: S3Settings) -> None:
    key, content = f"{settings.prefix}m/a.json", b"{}"
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    client.put_object(Bucket=BUCKET, Key=key, Body=content, ChecksumSHA256=digest)
    with contextlib.closing(S3Source(f"s3://{BUCKET}/{settings.prefix}m/", settings)) as source:
        (file,) = source.list_files().files
    # Ceph's gateway of some releases stores no checksums; the ETag is there then.
    assert (file.sha256, file.md5) in (
        (hashlib.sha256(content).hexdigest(), ""),
        ("", hashlib.md5(content, usedforsecurity=False).hexdigest()),
    )


def test_an_object_that_is_replaced_meanwhile_is_not_mixed(client: Any, settings: S3Settings) -> None:
    key = f"{settings.prefix}m/a.bin"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"old content")
    with contextlib.closing(S3Source(f"s3://{BUCKET}/{settings.prefix}m", settings)) as source:
        (file,) = source.list_files().files
        client.put_object(Bucket=BUCKET, Key=key, Body=b"new content")
        with pytest.raises(TransferInterrupted, match="replaced"), source.open_range(file, 0, 5):
            pass


def test_refusals_say_what_to_do(settings: S3Settings) -> None:
    cases = ((BUCKET, "nothing below"), ("no-such-bucket", "NoSuchBucket.*LLMARINER_S3_ACCESS_KEY"))
    for bucket, said in cases:
        source = S3Source(f"s3://{bucket}/{settings.prefix}none", settings)
        with contextlib.closing(source), pytest.raises(FilesUnavailable, match=said):
            source.list_files()
    for location in ("s3://", "s3://Bucket/x", "s3://bucket", "s3://bucket/", "s3://b\0/x"):
        with pytest.raises(FilesUnavailable, match="no folder of an object store"):
            S3Source(location, settings)


def test_a_range_of_one_version_is_read_by_a_url_without_credentials(client: Any, settings: S3Settings) -> None:
    folder = f"{settings.prefix}signed"
    put_parts(client, f"{folder}/model.safetensors", WHOLE)
    location, signing = f"s3://{BUCKET}/{folder}", replace(settings, presigned_seconds=60)
    with contextlib.closing(S3Source(location, settings)) as source:
        (listed,) = source.list_files().files
        assert source.signed_url(listed) is None, "unless a setting says so"
        with pytest.raises(FilesUnavailable, match="refuses"):
            source.named("none.json", listed.version)
        with pytest.raises(TransferInterrupted, match="replaced"):
            source.named(listed.path, '"other"')
    with contextlib.closing(S3Source(location, signing)) as source:
        file = source.named(listed.path, listed.version)
        assert (file.size, file.url) == (listed.size, listed.url)
        url = str(source.signed_url(file))
    headers = {"range": "bytes=100-199", "if-match": file.version}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        assert (answer.status, answer.read()) == (206, WHOLE[100:200])
    other = urllib.request.Request(url, headers={**headers, "if-match": '"other"'})
    with pytest.raises(urllib.error.HTTPError, match="412"):
        urllib.request.urlopen(other, timeout=30)
