"""Settings of the store of objects (files and their parts); `llmariner.settings` exports them."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmariner.environment import Environment, Secret, read_http_url, read_number, read_secret

__all__ = ["ObjectSettings", "S3Settings"]

_LONGEST_PRESIGNED_SECONDS = 3600


@dataclass(frozen=True)
class S3Settings:
    """An S3-compatible store, by address."""

    bucket: str = ""
    """`LLMARINER_S3_BUCKET`: the bucket, which must exist."""

    prefix: str = ""
    """`LLMARINER_S3_PREFIX`: what precedes all keys, such as `llmariner/`, where others use the bucket too."""

    endpoint: str = ""
    """`LLMARINER_S3_ENDPOINT`: URL of the store. Empty: Amazon S3 in the region."""

    public_endpoint: str = ""
    """`LLMARINER_S3_PUBLIC_ENDPOINT`: URL at which clients reach the store, for presigned URLs. Empty: `endpoint`."""

    presigned_seconds: int = 0
    """`LLMARINER_S3_PRESIGNED_SECONDS`: how long a presigned URL is valid. 0: none are given out."""

    region: str = "us-east-1"
    """`LLMARINER_S3_REGION`."""

    addressing: str = "path"
    """`LLMARINER_S3_ADDRESSING`: `path` (bucket in the path) or `virtual` (bucket in the host name)."""

    access_key: str = ""
    """`LLMARINER_S3_ACCESS_KEY`. Empty: the credentials of the environment, such as those of a pod's service account."""

    secret_key: Secret = field(default_factory=lambda: Secret(""))
    """`LLMARINER_S3_SECRET_KEY` or `…_FILE`: the secret of `access_key`."""

    role_arn: str = ""
    """`LLMARINER_S3_ROLE_ARN`: role to assume with these credentials. Empty: none."""

    external_id: str = ""
    """`LLMARINER_S3_EXTERNAL_ID`: external id that the role's owner asks for."""

    sts_endpoint: str = ""
    """`LLMARINER_S3_STS_ENDPOINT`: URL of the service that issues the role's credentials. Empty: Amazon's in the region."""

    ca_file: str = ""
    """`LLMARINER_S3_CA_FILE`: PEM file with the authorities that sign the store's certificate. Empty: the system's."""

    insecure_tls: bool = False
    """`LLMARINER_S3_INSECURE_TLS`: 1: accept any certificate. For tests: any server at the address gets all files."""

    encryption: str = ""
    """`LLMARINER_S3_ENCRYPTION`: server-side encryption to ask for: `AES256` or `aws:kms`. Empty: the bucket's default."""

    kms_key: str = ""
    """`LLMARINER_S3_KMS_KEY`: key for `aws:kms`. Empty: the account's default key."""

    checksums: str = "when_supported"
    """`LLMARINER_S3_CHECKSUMS`: `when_supported` or `when_required`, for stores that don't know Amazon's checksums."""

    part_bytes: int = 8 << 20
    """`LLMARINER_S3_PART_BYTES`: size of the parts of an upload, at least 5 MiB. An object has at most 10,000 parts."""

    parallel_parts: int = 4
    """`LLMARINER_S3_PARALLEL_PARTS`: parts in flight in one process; each is held in memory."""

    @classmethod
    def load(cls, env: Environment) -> S3Settings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
        loaded = cls(
            bucket=env.get("LLMARINER_S3_BUCKET", ""),
            prefix=env.get("LLMARINER_S3_PREFIX", ""),
            endpoint=read_http_url(env, "LLMARINER_S3_ENDPOINT"),
            public_endpoint=read_http_url(env, "LLMARINER_S3_PUBLIC_ENDPOINT"),
            presigned_seconds=int(read_number(env, "LLMARINER_S3_PRESIGNED_SECONDS", cls.presigned_seconds)),
            region=env.get("LLMARINER_S3_REGION") or cls.region,
            addressing=env.get("LLMARINER_S3_ADDRESSING") or cls.addressing,
            access_key=env.get("LLMARINER_S3_ACCESS_KEY", ""),
            secret_key=read_secret(env, "LLMARINER_S3_SECRET_KEY"),
            role_arn=env.get("LLMARINER_S3_ROLE_ARN", ""),
            external_id=env.get("LLMARINER_S3_EXTERNAL_ID", ""),
            sts_endpoint=read_http_url(env, "LLMARINER_S3_STS_ENDPOINT"),
            ca_file=env.get("LLMARINER_S3_CA_FILE", ""),
            insecure_tls=env.get("LLMARINER_S3_INSECURE_TLS", "0") == "1",
            encryption=env.get("LLMARINER_S3_ENCRYPTION", ""),
            kms_key=env.get("LLMARINER_S3_KMS_KEY", ""),
            checksums=env.get("LLMARINER_S3_CHECKSUMS") or cls.checksums,
            part_bytes=int(read_number(env, "LLMARINER_S3_PART_BYTES", cls.part_bytes, minimum=5 << 20)),
            parallel_parts=int(read_number(env, "LLMARINER_S3_PARALLEL_PARTS", cls.parallel_parts, minimum=1)),
        )
        loaded._check()
        return loaded

    def _check(self) -> None:
        for name, value, allowed in (
            ("ADDRESSING", self.addressing, ("path", "virtual")),
            ("CHECKSUMS", self.checksums, ("when_supported", "when_required")),
            ("ENCRYPTION", self.encryption, ("", "AES256", "aws:kms")),
        ):
            if value not in allowed:
                choices = " or ".join(choice for choice in allowed if choice)
                raise ValueError(f"LLMARINER_S3_{name} must be {choices}, not {value!r}.")
        if self.presigned_seconds > _LONGEST_PRESIGNED_SECONDS:
            raise ValueError(
                f"LLMARINER_S3_PRESIGNED_SECONDS must be at most {_LONGEST_PRESIGNED_SECONDS}: nobody can revoke such a URL."
            )
        if bool(self.access_key) != bool(self.secret_key):
            raise ValueError("Set both LLMARINER_S3_ACCESS_KEY and LLMARINER_S3_SECRET_KEY (or …_FILE), or neither.")
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("LLMARINER_S3_KMS_KEY needs LLMARINER_S3_ENCRYPTION=aws:kms.")
        if self.external_id and not self.role_arn:
            raise ValueError("LLMARINER_S3_EXTERNAL_ID needs LLMARINER_S3_ROLE_ARN.")
        if self.ca_file and self.insecure_tls:
            raise ValueError("Set LLMARINER_S3_CA_FILE or LLMARINER_S3_INSECURE_TLS, not both.")


@dataclass(frozen=True)
class ObjectSettings:
    """The adapter that stores the bytes of files."""

    adapter: str = "folder"
    """`LLMARINER_OBJECTS`: `folder` (a folder of this machine) or `s3`."""

    folder: str = ""
    """`LLMARINER_OBJECTS_FOLDER`: the folder. Standalone mode uses `objects` in its home."""

    s3: S3Settings = field(default_factory=S3Settings)
    """The store of `s3`."""

    @property
    def is_configured(self) -> bool:
        """Whether there is a store. An installation without one has no files."""
        return self.adapter == "s3" or bool(self.folder)

    @classmethod
    def load(cls, env: Environment) -> ObjectSettings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
        adapter = env.get("LLMARINER_OBJECTS") or cls.adapter
        if adapter not in ("folder", "s3"):
            raise ValueError(f"LLMARINER_OBJECTS must be folder or s3, not {adapter!r}.")
        loaded = cls(adapter=adapter, folder=env.get("LLMARINER_OBJECTS_FOLDER", ""), s3=S3Settings.load(env))
        if adapter == "s3" and not loaded.s3.bucket:
            raise ValueError("LLMARINER_OBJECTS=s3 needs LLMARINER_S3_BUCKET, the name of a bucket.")
        return loaded
