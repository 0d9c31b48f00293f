"""Clients of S3 with the credentials of the settings, and the errors of the port for those of boto3."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, DeferredRefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from llmariner.object_settings import S3Settings
from llmariner.platform.objects import ObjectNotFound, ObjectStoreUnavailable

__all__ = ["S3Clients", "UploadEnded", "response_time", "translated"]

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_ATTEMPTS = 4
# Connections besides those of parts: readers, listings, deletes.
_CONNECTIONS = 32
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


class UploadEnded(ObjectStoreUnavailable):
    """The multipart upload was completed or aborted."""


class S3Clients:
    """Clients, safe in any thread, with the same credentials: of the store, and of the address that its users reach."""

    def __init__(self, settings: S3Settings) -> None:
        # Checked here, since only functions that use the store have the file.
        if settings.ca_file and not Path(settings.ca_file).is_file():
            raise ValueError(f"LLMARINER_S3_CA_FILE must name a file, and {settings.ca_file!r} is none.")
        if settings.insecure_tls:
            _log.warning("LLMARINER_S3_INSECURE_TLS is set: the certificate of the store is not checked")
            warnings.filterwarnings("ignore", category=InsecureRequestWarning)
        self._settings = settings
        self._session = self._role_session() if settings.role_arn else self._base_session()
        self.client = self._client(self._session, "s3", settings.endpoint)
        public = settings.public_endpoint
        self.public_client = self._client(self._session, "s3", public) if public else self.client

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        self.public_client.close()

    def _client(self, session: Any, service: str, endpoint: str) -> Any:
        settings = self._settings
        return session.client(
            service,
            endpoint_url=endpoint or None,
            region_name=settings.region,
            verify=False if settings.insecure_tls else settings.ca_file or None,
            config=Config(
                signature_version="s3v4" if service == "s3" else None,
                s3={"addressing_style": settings.addressing},
                request_checksum_calculation=settings.checksums,
                response_checksum_validation=settings.checksums,
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                max_pool_connections=settings.parallel_parts + _CONNECTIONS,
                tcp_keepalive=True,
            ),
        )

    def _base_session(self) -> Any:
        settings = self._settings
        if not settings.access_key:
            return boto3.Session()
        return boto3.Session(aws_access_key_id=settings.access_key, aws_secret_access_key=settings.secret_key.reveal())

    def _role_session(self) -> Any:
        session = botocore.session.get_session()
        session.register_component("credential_provider", CredentialResolver([_RoleCredentials(self._assume_role)]))
        return boto3.Session(botocore_session=session)

    def _assume_role(self) -> dict[str, str]:
        """Credentials of the role, in the form that botocore refreshes them in."""
        settings = self._settings
        parameters = {"RoleArn": settings.role_arn, "RoleSessionName": "llmariner"}
        if settings.external_id:
            parameters["ExternalId"] = settings.external_id
        client = self._client(self._base_session(), "sts", settings.sts_endpoint)
        with contextlib.closing(client):
            found = client.assume_role(**parameters)["Credentials"]
        return {
            "access_key": found["AccessKeyId"],
            "secret_key": found["SecretAccessKey"],
            "token": found["SessionToken"],
            "expiry_time": found["Expiration"].isoformat(),
        }


class _RoleCredentials(CredentialProvider):  # type: ignore[misc]
    """Credentials that are fetched with the first request, and again before they expire."""

    METHOD = "assume-role-of-settings"

    def __init__(self, fetch: Any) -> None:
        super().__init__()
        self._fetch = fetch

    def load(self) -> Any:
        """Called once by botocore."""
        return DeferredRefreshableCredentials(self._fetch, self.METHOD)


@contextlib.contextmanager
def translated(key: str) -> Iterator[None]:
    """Raise the port's errors for those of boto3."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "an unknown error")
        if code in _MISSING:
            raise ObjectNotFound(key) from error
        if code == "NoSuchUpload":
            raise UploadEnded("The upload of the object was ended by another process.") from error
        raise ObjectStoreUnavailable(f"The store of objects answers {error.operation_name} with {code}.") from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise ObjectStoreUnavailable(f"The store of objects does not answer: {type(error).__name__}.") from error


def response_time(response: dict[str, Any]) -> float:
    """When the store answered, by its own clock, in Unix seconds."""
    date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return time.time()
