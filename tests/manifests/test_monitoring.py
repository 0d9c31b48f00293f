"""Alerts: Prometheus' own tool accepts them, they fire when they should, and their metrics exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmariner.gateway.metering.metrics import Metrics
from llmariner.http.metrics import backlog_metrics
from llmariner.manifests.declarations import read_declarations
from llmariner.manifests.installation import CONTROL_PLANE
from llmariner.platform.events.publish_queue import Backlog

from .kustomize import Rendered, names

CHECKOUT = Path(__file__).parents[2]
MONITORING = CHECKOUT / "manifests/components/monitoring"
# Read in vLLM 0.33 and in kube-state-metrics 2.16.
OF_OTHERS = {
    "vllm:kv_cache_usage_perc",
    "kube_pod_container_status_waiting_reason",
    "kube_pod_status_unschedulable",
    "kube_job_status_failed",
    "kube_deployment_status_replicas_available",
}
FAILING = {
    "alert": "LLMarinerRequestsFail",
    "series": 'llmariner_requests_total{status="500",gen_ai_request_model="m"}',
}
# alert → (series and values a minute apart, minute, whether it fires)
SCENES: dict[str, tuple[str, dict[str, str], int, bool]] = {
    "one request in two fails": (
        "LLMarinerRequestsFail",
        {
            'llmariner_requests_total{status="500",gen_ai_request_model="m"}': "0+60x30",
            'llmariner_requests_total{status="200",gen_ai_request_model="m"}': "0+60x30",
        },
        20,
        True,
    ),
    "callers are refused": (
        "LLMarinerRequestsFail",
        {
            'llmariner_requests_total{status="429",gen_ai_request_model="m"}': "0+60x30",
            'llmariner_requests_total{status="200",gen_ai_request_model="m"}': "0+60x30",
        },
        20,
        False,
    ),
    "nobody asks": (
        "LLMarinerRequestsFail",
        {'llmariner_requests_total{status="500",gen_ai_request_model="m"}': "9x30"},
        20,
        False,
    ),
    "one first token in ten is slow": (
        "LLMarinerFirstTokenSlow",
        {
            'gen_ai_server_time_to_first_token_seconds_bucket{le="10",gen_ai_request_model="m"}': "0+90x40",
            'gen_ai_server_time_to_first_token_seconds_count{gen_ai_request_model="m"}': "0+100x40",
        },
        30,
        True,
    ),
    "one first token in a hundred is slow": (
        "LLMarinerFirstTokenSlow",
        {
            'gen_ai_server_time_to_first_token_seconds_bucket{le="10",gen_ai_request_model="m"}': "0+99x40",
            'gen_ai_server_time_to_first_token_seconds_count{gen_ai_request_model="m"}': "0+100x40",
        },
        30,
        False,
    ),
    "an event waits for the Broker": (
        "LLMarinerEventsWait",
        {'llmariner_outbox_oldest_seconds{pod="a"}': "0+60x40"},
        30,
        True,
    ),
    "events wait for the sweep": (
        "LLMarinerEventsWait",
        {'llmariner_outbox_oldest_seconds{pod="a"}': "0+60x10 0x30"},
        30,
        False,
    ),
    "an engine crash-loops": (
        "LLMarinerModelCrashLoops",
        {'kube_pod_container_status_waiting_reason{namespace="llmariner-models",reason="CrashLoopBackOff"}': "1x30"},
        10,
        True,
    ),
    "another's pod crash-loops": (
        "LLMarinerModelCrashLoops",
        {'kube_pod_container_status_waiting_reason{namespace="other",reason="CrashLoopBackOff"}': "1x30"},
        10,
        False,
    ),
    "a migration failed": (
        "LLMarinerJobFailed",
        {'kube_job_status_failed{namespace="llmariner",job_name="migrations-0-3-0"}': "1x30"},
        5,
        True,
    ),
    "PgBouncer is gone": (
        "LLMarinerDatabaseUnreachable",
        {'kube_deployment_status_replicas_available{namespace="llmariner",deployment="pgbouncer"}': "0x30"},
        5,
        True,
    ),
}


def groups() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    return spec


def alerts() -> list[dict[str, Any]]:
    return [rule for group in groups()["groups"] for rule in group["rules"]]


@pytest.fixture
def promtool(tmp_path: Path) -> Any:
    """Runs promtool beside the rules."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups()))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_prometheus_accepts_the_rules(promtool: Any) -> None:
    checked = promtool("check", "rules", "rules.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"SUCCESS: {len(alerts())} rules found" in checked.stdout


@pytest.mark.parametrize("scene", SCENES)
def test_an_alert_fires_when_it_should(scene: str, promtool: Any, tmp_path: Path) -> None:
    alert, series, minute, fires = SCENES[scene]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    asked = {"expr": f'sum(ALERTS{{alertname="{alert}",alertstate="firing"}})', "eval_time": f"{minute}m"}
    asked["exp_samples"] = [{"labels": "{}", "value": 1}] if fires else []  # type: ignore[assignment]
    body = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": [asked]}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(body))
    tested = promtool("test", "rules", "test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_metric_exists() -> None:
    reported = Metrics().render([("m", 0, 0)]) + backlog_metrics(Backlog(0, 0.0))
    ours = set(re.findall(r"^# TYPE (\S+)", reported, re.MULTILINE))
    for rule in alerts():
        bare = re.sub(r'"[^"]*"', "", re.sub(r"by \([^)]*\)", "", rule["expr"]))
        asked = set(re.findall(r"\b(?:vllm:|kube_|llmariner_|gen_ai_server_)\w+", bare))
        assert asked, rule["alert"]
        assert {re.sub("_(bucket|count)$", "", name) for name in asked} <= ours | OF_OTHERS


def test_every_alert_has_a_description_and_a_remedy() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["for"]
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_control_function_and_every_function_on_the_token_path_are_scraped() -> None:
    production = Rendered(CHECKOUT / "manifests/overlays/production")
    (monitor,) = [
        o
        for o in production.objects_of("monitoring.coreos.com", "PodMonitor")
        if o["metadata"]["namespace"] == "llmariner"
    ]
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    without_database = {each.name for each in read_declarations(CHECKOUT)[0] if each.extras == ()}
    assert set(expression["values"]) == without_database | {CONTROL_PLANE}
    assert without_database <= names(production.services())
