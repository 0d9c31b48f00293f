"""What only S3 has: multipart uploads, TLS, roles, encryption, lost connections."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmariner.object_settings import S3Settings
from llmariner.platform.objects import ObjectNotFound, ObjectStoreUnavailable
from llmariner.platform.objects.s3 import S3Objects
from llmariner.settings import Secret

from .conftest import BUCKET
from .contents import get, keys, put
from .radosgw import KMS_KEY, Gateway

MIB = 1 << 20
NewS3 = Callable[..., S3Objects]


def uploads(client: Any, settings: S3Settings) -> list[str]:
    """Keys of unfinished multipart uploads below the prefix."""
    found = client.list_multipart_uploads(Bucket=BUCKET, Prefix=settings.prefix)
    return [upload["Key"].removeprefix(settings.prefix) for upload in found.get("Uploads", ())]


def test_objects_are_below_the_prefix(s3: S3Objects, client: Any, settings: S3Settings) -> None:
    put(s3, "files/file_1", b"text")
    assert client.get_object(Bucket=BUCKET, Key=f"{settings.prefix}files/file_1")["Body"].read() == b"text"
    client.put_object(Bucket=BUCKET, Key=f"{settings.prefix}files/file_2", Body=b"other")
    assert keys(s3) == ["files/file_1", "files/file_2"]


def test_a_large_object_is_a_multipart_upload(new_s3: NewS3, client: Any, settings: S3Settings) -> None:
    s3 = new_s3(part_bytes=5 * MIB, parallel_parts=2)
    data = random.Random(1).randbytes(21 * MIB)
    put(s3, "files/file_1", *(data[at : at + MIB] for at in range(0, len(data), MIB)))
    tag = client.head_object(Bucket=BUCKET, Key=f"{settings.prefix}files/file_1")["ETag"]
    assert tag.endswith('-5"')
    assert get(s3, "files/file_1") == data
    assert uploads(client, settings) == []


def test_an_object_of_one_part_is_one_request(new_s3: NewS3, client: Any, settings: S3Settings) -> None:
    data = random.Random(1).randbytes(5 * MIB)
    put(new_s3(part_bytes=5 * MIB), "files/file_1", data)
    head = client.head_object(Bucket=BUCKET, Key=f"{settings.prefix}files/file_1")
    assert "-" not in head["ETag"]
    assert head["ContentLength"] == len(data)


def test_a_writer_that_is_left_aborts_its_upload(s3: S3Objects, client: Any, settings: S3Settings) -> None:
    with s3.writer("files/file_1") as writer:
        writer.write(bytes(20 * MIB))
        assert uploads(client, settings) == ["files/file_1"]
    assert uploads(client, settings) == []


def test_an_upload_of_a_killed_process_is_discarded_after_its_last_part_is_old(
    s3: S3Objects, client: Any, settings: S3Settings
) -> None:
    target = {"Bucket": BUCKET, "Key": f"{settings.prefix}files/file_1"}
    begun = client.create_multipart_upload(**target)
    client.upload_part(**target, UploadId=begun["UploadId"], PartNumber=1, Body=b"x")
    assert s3.discard_unfinished("uploads/", time.time() + 60) == 0
    assert s3.discard_unfinished("files/", time.time() - 60) == 0
    assert uploads(client, settings) == ["files/file_1"]
    assert s3.discard_unfinished("files/", time.time() + 60) == 1
    assert s3.discard_unfinished("files/", time.time() + 60) == 0
    assert uploads(client, settings) == []


def test_an_upload_whose_last_part_is_young_is_kept(s3: S3Objects, client: Any, settings: S3Settings) -> None:
    target = {"Bucket": BUCKET, "Key": f"{settings.prefix}files/file_1"}
    begun = client.create_multipart_upload(**target)
    started = client.list_multipart_uploads(Bucket=BUCKET, Prefix=settings.prefix)["Uploads"][0][
        "Initiated"
    ].timestamp()
    time.sleep(max(0, started + 1.1 - time.time()))  # the store counts whole seconds
    client.upload_part(**target, UploadId=begun["UploadId"], PartNumber=1, Body=b"x")
    part = client.list_parts(**target, UploadId=begun["UploadId"])["Parts"][0]["LastModified"].timestamp()
    assert s3.discard_unfinished("files/", part) == 0
    assert s3.discard_unfinished("files/", part + 1) == 1


def test_parts_are_copied_inside_the_store(s3: S3Objects, client: Any, settings: S3Settings) -> None:
    data = random.Random(2).randbytes(11 * MIB + 3)
    put(s3, "uploads/part_1", data[: 6 * MIB])
    put(s3, "uploads/part_2", data[6 * MIB : 11 * MIB])
    put(s3, "uploads/part_3", data[11 * MIB :])
    written = s3.concatenate("files/file_1", ["uploads/part_1", "uploads/part_2", "uploads/part_3"])
    assert written.size == len(data)
    tag = client.head_object(Bucket=BUCKET, Key=f"{settings.prefix}files/file_1")["ETag"]
    assert tag.endswith('-3"')
    assert get(s3, "files/file_1") == data
    assert uploads(client, settings) == []


def test_more_than_a_page_of_objects_is_listed_and_deleted(s3: S3Objects) -> None:
    names = [f"files/{number:04}" for number in range(1005)]
    list(s3._parts.map(lambda key: put(s3, key, b""), names))
    assert keys(s3, "files/") == names
    s3.delete(names)
    assert keys(s3) == []


FOREIGN = ["data/training set.jsonl", "a=1/b+c&d?e#f%20.jsonl", "Übergröße/日本.jsonl", ".hidden/x", "x" * 1024]


@pytest.mark.parametrize("key", FOREIGN)
def test_objects_of_another_bucket_have_any_keys(s3: S3Objects, client: Any, settings: S3Settings, key: str) -> None:
    client.create_bucket(Bucket="theirs")
    client.put_object(Bucket="theirs", Key=key, Body=b"theirs")
    theirs = s3.other_bucket("theirs")
    assert get(theirs, key, 1, 3) == b"hei"
    found = theirs.info(key)
    assert found is not None
    assert (found.key, found.size) == (key, 6)
    assert theirs.info(f"not-{key}"[:1024]) is None


@pytest.mark.parametrize("key", ["", "a/../b", "..", "./a", "a//b", "/a", "a/", "a\nb", "a\0", "x" * 1025, "\ud800"])
def test_a_key_of_another_bucket_is_not_taken_for_another(s3: S3Objects, key: str) -> None:
    theirs = s3.other_bucket("theirs")
    with pytest.raises(ValueError, match="not a key"):
        theirs.info(key)
    with pytest.raises(ValueError, match="not a key"):
        theirs.read(key)


# TLS, roles, encryption, checksums


def test_the_certificate_of_the_store_is_checked(new_s3: NewS3, gateway: Gateway) -> None:
    s3 = new_s3(endpoint=gateway.https, checksums="when_required")
    with pytest.raises(ObjectStoreUnavailable, match="SSLError"):
        put(s3, "files/file_1", b"text")


@pytest.mark.parametrize("trust", ["authority", "insecure"])
def test_the_store_is_used_over_tls(new_s3: NewS3, gateway: Gateway, trust: str) -> None:
    tls: dict[str, Any] = {"ca_file": gateway.certificate} if trust == "authority" else {"insecure_tls": True}
    s3 = new_s3(endpoint=gateway.https, checksums="when_required", **tls)
    data = random.Random(3).randbytes(12 * MIB)
    put(s3, "files/file_1", data)
    assert get(s3, "files/file_1") == data
    s3.concatenate("files/file_2", ["files/file_1", "files/file_1"])
    assert get(s3, "files/file_2") == data * 2


def test_another_authority_does_not_count(new_s3: NewS3, gateway: Gateway) -> None:
    import certifi

    s3 = new_s3(endpoint=gateway.https, ca_file=certifi.where())
    with pytest.raises(ObjectStoreUnavailable, match="SSLError"):
        s3.info("files/file_1")


def test_a_role_is_assumed(new_s3: NewS3, gateway: Gateway) -> None:
    s3 = new_s3(role_arn=gateway.role_arn, sts_endpoint=gateway.http, external_id="tests")
    put(s3, "files/file_1", b"text")
    assert get(s3, "files/file_1") == b"text"
    credentials = s3._clients.client._request_signer._credentials.get_frozen_credentials()
    assert credentials.access_key != gateway.access_key
    assert credentials.token


def test_a_role_that_may_not_be_assumed_is_an_error_of_the_store(new_s3: NewS3, gateway: Gateway) -> None:
    s3 = new_s3(role_arn="arn:aws:iam:::role/other", sts_endpoint=gateway.http)
    with pytest.raises(ObjectStoreUnavailable):
        s3.info("files/file_1")


@pytest.mark.parametrize("size", [4, 12 * MIB])
def test_objects_are_encrypted_with_the_key_of_the_settings(
    new_s3: NewS3, client: Any, settings: S3Settings, size: int
) -> None:
    s3 = new_s3(encryption="aws:kms", kms_key=KMS_KEY)
    data = random.Random(4).randbytes(size)
    put(s3, "files/file_1", data)
    found = client.head_object(Bucket=BUCKET, Key=f"{settings.prefix}files/file_1")
    assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", KMS_KEY)
    assert get(s3, "files/file_1") == data
    assert get(s3, "files/file_1", 2, 2) == data[2:4]
    s3.concatenate("files/file_2", ["files/file_1", "files/file_1"])
    assert get(s3, "files/file_2") == data * 2
    copied = client.head_object(Bucket=BUCKET, Key=f"{settings.prefix}files/file_2")
    assert (copied["ServerSideEncryption"], copied["SSEKMSKeyId"]) == ("aws:kms", KMS_KEY)


@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
def test_both_kinds_of_checksums_work(new_s3: NewS3, checksums: str) -> None:
    s3 = new_s3(checksums=checksums)
    data = random.Random(5).randbytes(9 * MIB)
    put(s3, "files/file_1", data)
    put(s3, "files/file_2", b"small")
    assert get(s3, "files/file_1") == data
    assert get(s3, "files/file_1", 3 * MIB, 10) == data[3 * MIB : 3 * MIB + 10]
    s3.delete(["files/file_1", "files/file_2"])
    assert keys(s3) == []


# Errors


def test_wrong_credentials_are_an_error_of_the_store(new_s3: NewS3) -> None:
    s3 = new_s3(secret_key=Secret("another-secret"))
    with pytest.raises(ObjectStoreUnavailable, match=r"AccessDenied|SignatureDoesNotMatch"):
        keys(s3)
    with pytest.raises(ObjectStoreUnavailable, match=r"AccessDenied|SignatureDoesNotMatch"):
        put(s3, "files/file_1", b"text")


def test_a_missing_bucket_is_an_error_of_the_store(new_s3: NewS3) -> None:
    s3 = new_s3(bucket="no-such-bucket")
    with pytest.raises(ObjectStoreUnavailable, match="NoSuchBucket"):
        keys(s3)
    with pytest.raises(ObjectStoreUnavailable, match="NoSuchBucket"):
        put(s3, "files/file_1", b"text")
    with pytest.raises(ObjectStoreUnavailable, match="NoSuchBucket"):
        put(s3, "files/file_1", bytes(20 * MIB))
    with pytest.raises(ObjectStoreUnavailable, match="NoSuchBucket"):
        s3.read("files/file_1")


def test_the_answer_of_a_missing_upload_is_no_missing_object(s3: S3Objects, client: Any, settings: S3Settings) -> None:
    """An upload that somebody aborts under a writer fails the writer."""
    with s3.writer("files/file_1") as writer:
        writer.write(bytes(10 * MIB))
        assert s3.discard_unfinished("files/", time.time() + 3600) == 1
        with pytest.raises(ObjectStoreUnavailable):
            writer.commit()
    assert keys(s3) == []
    with pytest.raises(ObjectNotFound):
        s3.read("files/file_1")
