"""The secrets Job: random values, idempotency, and no changes to an administrator's Secrets."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from llmariner.installation.__main__ import main
from llmariner.installation.retry import RetryLater
from llmariner.installation.secret_objects import SecretObjects
from llmariner.installation.secrets import ensure_secrets
from llmariner.manifests.jobs import MANAGED_SECRETS
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import SECRETS
from llmariner.settings import ClusterSettings, SecretSettings

PROVIDED = {"host": "db.example", "user": "app", "password": "pa'ss\"@/word", "database": "llm"}


def values(secrets: SecretObjects, name: str) -> dict[str, str]:
    found = secrets.get(name)
    assert found is not None, name
    return dict(found.values)


def test_missing_secrets_are_created(secret_objects: SecretObjects) -> None:
    ensure_secrets(secret_objects, postgres_host="postgres")
    assert all(secret_objects.get(name) for name in MANAGED_SECRETS)
    SecretSettings.load(values(secret_objects, "llmariner-secrets"))
    assert values(secret_objects, "llmariner-admin-key")["key"].startswith("sk-")
    assert values(secret_objects, "llmariner-postgres")["host"] == "postgres"


def test_two_installations_share_no_secret(secret_objects: SecretObjects, api_server: Any, tmp_path: Path) -> None:
    ensure_secrets(secret_objects, postgres_host="postgres")
    first = {name: values(secret_objects, name) for name in MANAGED_SECRETS}
    cluster = Cluster(ClusterSettings(api_server.kubeconfig(tmp_path / "kubeconfig")))
    for name in MANAGED_SECRETS:
        cluster.delete(SECRETS, "llmariner", name)
    cluster.close()
    ensure_secrets(secret_objects, postgres_host="postgres")
    random = {"llmariner-secrets": None, "llmariner-admin-key": None, "llmariner-postgres": "password"}
    for name, key in random.items():
        now = values(secret_objects, name)
        for each in [key] if key else now:
            assert now[each] != first[name][each]


def test_a_second_run_changes_nothing(secret_objects: SecretObjects) -> None:
    ensure_secrets(secret_objects, postgres_host="postgres")
    before = {name: values(secret_objects, name) for name in MANAGED_SECRETS}
    assert ensure_secrets(secret_objects, postgres_host="postgres") == ["All secrets are there."]
    assert {name: values(secret_objects, name) for name in MANAGED_SECRETS} == before


def test_two_concurrent_runs_end_with_the_same_secrets(secret_objects: SecretObjects) -> None:
    failed: list[BaseException] = []
    barrier = threading.Barrier(4)

    def run() -> None:
        try:
            barrier.wait(10)
            ensure_secrets(secret_objects, postgres_host="postgres")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    password = values(secret_objects, "llmariner-postgres")["password"]
    assert password in values(secret_objects, "llmariner-database")["LLMARINER_DATABASE_URL"]
    assert password in values(secret_objects, "llmariner-pgbouncer")["userlist.txt"]


def test_a_deleted_administrators_key_is_not_created_again(secret_objects: SecretObjects) -> None:
    secret_objects.create("llmariner-secrets", {"LLMARINER_PEPPER": "p" * 32, "LLMARINER_SERVICE_SECRET": "s" * 32})
    ensure_secrets(secret_objects, postgres_host="postgres")
    assert secret_objects.get("llmariner-admin-key") is None


def test_an_interrupted_run_is_completed(secret_objects: SecretObjects) -> None:
    secret_objects.create("llmariner-admin-key", {"key": "sk-first"})
    ensure_secrets(secret_objects, postgres_host="postgres")
    assert values(secret_objects, "llmariner-admin-key") == {"key": "sk-first"}
    assert secret_objects.get("llmariner-secrets") is not None


def test_secrets_of_an_administrator_are_not_changed(secret_objects: SecretObjects) -> None:
    ensure_secrets(secret_objects, postgres_host="postgres")
    theirs = {"LLMARINER_DATABASE_URL": "postgresql+psycopg://app:word@elsewhere/llm"}
    by_hand = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
    secret_objects.replace("llmariner-database", theirs)
    secret_objects._cluster.merge_patch(SECRETS, "llmariner", "llmariner-database", by_hand)
    assert ensure_secrets(secret_objects, postgres_host="postgres") == ["All secrets are there."]
    assert values(secret_objects, "llmariner-database") == theirs


def test_a_provided_database_is_required(secret_objects: SecretObjects) -> None:
    with pytest.raises(RetryLater, match="kubectl -n llmariner create secret generic llmariner-postgres"):
        ensure_secrets(secret_objects)
    secret_objects.create("llmariner-postgres", {"host": "h", "user": ""})
    with pytest.raises(RetryLater, match="lacks user, password, database"):
        ensure_secrets(secret_objects)


def test_derived_secrets_follow_the_database(secret_objects: SecretObjects) -> None:
    secret_objects.create("llmariner-postgres", PROVIDED)
    ensure_secrets(secret_objects)
    url = make_url(values(secret_objects, "llmariner-database")["LLMARINER_DATABASE_URL"])
    assert (url.username, url.password, url.host, url.database) == ("app", PROVIDED["password"], "pgbouncer", "llm")
    secret_objects.replace("llmariner-postgres", {**PROVIDED, "password": "other"})
    ensure_secrets(secret_objects)
    assert ":other@" in values(secret_objects, "llmariner-database")["LLMARINER_DATABASE_URL"]
    assert values(secret_objects, "llmariner-pgbouncer")["userlist.txt"] == '"app" "other"\n'


def test_no_value_is_printed(secret_objects: SecretObjects) -> None:
    reported = " ".join(ensure_secrets(secret_objects, postgres_host="postgres"))
    for name in MANAGED_SECRETS:
        assert not [value for value in values(secret_objects, name).values() if len(value) > 20 and value in reported]


def test_the_job_reports_what_is_missing_and_fails(
    secret_objects: SecretObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMARINER_KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert main(["secrets"]) == 1
    assert "create secret generic llmariner-postgres" in capsys.readouterr().err
    assert main(["secrets", "--postgres=postgres"]) == 0
    assert "llmariner-database made." in capsys.readouterr().out


def test_a_missing_permission_is_reported(
    api_server: Any,
    secret_objects: SecretObjects,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLMARINER_KUBECONFIG", str(tmp_path / "kubeconfig"))
    api_server.forbid("create secrets")
    assert main(["secrets", "--postgres=postgres"]) == 1
    assert "secrets" in capsys.readouterr().err
