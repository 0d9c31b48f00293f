"""Fine-tuning jobs of an installed platform, as their caller, its operator and its ledger see them."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from sqlalchemy import func, select

from llmariner.manifests.installation import JOBS_NAMESPACE
from llmariner.usage.prices import TRAINING_ROUTE
from llmariner.usage.tables import ledger_requests

from ...lab.kubectl import get
from ...lab.wait import until
from ..jobs.test_jobs import left
from ..platform_client import PlatformClient

__all__ = ["QUESTION", "Json", "Trainings"]

QUESTION = "What is the capital of {}?"
_CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Peru": "Lima",
    "Japan": "Tokyo",
    "Greece": "Athens",
    "Norway": "Oslo",
    "Egypt": "Cairo",
    "Cuba": "Havana",
    "Austria": "Vienna",
    "Kenya": "Nairobi",
    "Chile": "Santiago",
    "Poland": "Warsaw",
}
_PAGE = 100
Json = dict[str, Any]


class Trainings:
    """See the module. All jobs have one seed."""

    def __init__(self, client: PlatformClient) -> None:
        self.client = client

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """The answer of a call that succeeds."""
        status, answer = self.client.installed.call(method, path, body)
        assert status == 200, answer
        return dict(answer)

    def upload(self) -> str:
        """The id of a training file."""
        rows = []
        for country, city in _CAPITALS.items():
            answer = f"Arrr! The capital of {country} be {city}, matey."
            messages = [{"role": "user", "content": QUESTION.format(country)}, {"role": "assistant", "content": answer}]
            rows.append(json.dumps({"messages": messages}))
        head = {"authorization": f"Bearer {self.client.key}"}
        form = {"file": ("pirate.jsonl", "\n".join(rows).encode())}
        url = f"{self.client.installed.base_url}/files"
        made = httpx2.post(url, headers=head, data={"purpose": "fine-tune"}, files=form, timeout=120)
        assert made.status_code == 200, made.text
        return str(made.json()["id"])

    def create(
        self, model: str, file: str, cluster_id: str = "", /, *, workers: int = 1, trained: str = "lora", **numbers: Any
    ) -> str:
        """The id of a new job. `numbers`: hyperparameters. `cluster_id`: where it is to run, if not anywhere."""
        body = {
            "model": model,
            "training_file": file,
            "suffix": f"pirate{workers}",
            "seed": 7,
            "training_type": trained,
            "hyperparameters": numbers,
            "resources": {"worker_count": workers},
            **({"cluster_id": cluster_id} if cluster_id else {}),
        }
        return str(self.call("POST", "/fine_tuning/jobs", body)["id"])

    def job(self, job_id: str) -> Json:
        """A job that has not failed."""
        job = self.call("GET", f"/fine_tuning/jobs/{job_id}")
        assert job["status"] != "failed", job["error"]
        return job

    def wait_for(self, job_id: str, status: str, *, seconds: float = 400, ticks: bool = True) -> Json:
        """The job in that status. `ticks`: the clock ticks more often meanwhile than it does by itself."""
        seen: list[Json] = []

        def not_yet() -> str | None:
            seen.append(self.job(job_id))
            return None if seen[-1]["status"] == status else f"{seen[-1]['status']}: {seen[-1]['queue']}"

        wait = self.client.ticking if ticks else until
        wait(f"{job_id} is {status}", not_yet, seconds=seconds)
        return seen[-1]

    def events(self, job_id: str) -> list[Json]:
        """Oldest first."""
        found: list[Json] = []
        page: Json = {"has_more": True}
        while page["has_more"]:
            after = f"&after={found[-1]['id']}" if found else ""
            page = self.call("GET", f"/fine_tuning/jobs/{job_id}/events?limit={_PAGE}{after}")
            found += page["data"]
        return found[::-1]

    def messages(self, job_id: str) -> list[str]:
        """What was said, oldest first."""
        return [event["message"] for event in self.events(job_id) if event["type"] == "message"]

    def losses(self, job_id: str) -> dict[int, float]:
        """By step."""
        found = [event["data"] for event in self.events(job_id) if event["type"] == "metrics"]
        assert len({each["step"] for each in found}) == len(found), "a step is reported once"
        return {int(each["step"]): float(each["train_loss"]) for each in found}

    def pods(self, job_id: str) -> list[str]:
        """Those of a job that run and are not ending, in the order of their workers."""
        items = get(self.client.installed.lab, "pods", "-n", JOBS_NAMESPACE)["items"]
        running = [each["metadata"] for each in items if each["status"].get("phase") == "Running"]
        names = [each["name"] for each in running if "deletionTimestamp" not in each]
        return sorted(each for each in names if each.startswith(job_id))

    def charged(self, model: str) -> int:
        """The trained tokens of a model in the ledger."""
        c = ledger_requests.c
        query = select(func.sum(c.trained_tokens)).where(c.route == TRAINING_ROUTE, c.model == model)
        with self.client.context.database.read() as session:
            return int(session.value(query) or 0)

    def until_nothing_is_left(self, *job_ids: str) -> None:
        """Wait until jobs have no objects in the cluster."""
        for each in job_ids:
            until(f"nothing is left of {each}", lambda each=each: left(self.client.installed, each), seconds=90)  # type: ignore[misc]
