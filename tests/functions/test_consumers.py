"""Event consumers as they are deployed: one POST per event, with duplicate deliveries."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from llmariner.boot import load
from llmariner.context import Context
from llmariner.errors import Unavailable
from llmariner.models.model import Model, NewModel, SourceRepository, Task
from llmariner.models.weights import FetchedWeights, ReportProgress, StorageUriFetcher, WeightsUnavailable
from llmariner.platform.database.work_leases import WorkLease
from llmariner.platform.events import outbox
from llmariner.platform.events.cloudevents import Event, to_http
from llmariner.platform.events.deliveries import Deliveries, Subscription
from llmariner.standalone.dispatcher import Dispatcher, delivery_timeouts, subscriptions
from llmariner.usage.ledger import Ledger

from .http_calls import HttpRequest, InProcessClient, send_over_http
from .installation import Installation
from .outbox_events import write_event
from .processes import CHECKOUT, boot_command, framework_command, process

TYPES = {
    "batch_job_runner": "ai.llmariner.batch_job.change_requested.v1",
    "document_indexer": "ai.llmariner.vector_store.file.parsed.v1",
    "document_parser": "ai.llmariner.vector_store.file.created.v1",
    "fine_tuning_runner": "ai.llmariner.fine_tuning_job.change_requested.v1",
    "fine_tuning_tracker": "ai.llmariner.fine_tuning_job.tracking_requested.v1",
    "group_settlement": "ai.llmariner.group_role.changed.v1",
    "model_loader": "ai.llmariner.model.created.v1",
    "model_load_continuation": "ai.llmariner.model.loading_requested.v1",
    "model_retirement": "ai.llmariner.model.deleted.v1",
    "notebook_runner": "ai.llmariner.notebook.change_requested.v1",
    "quota_settlement": "ai.llmariner.quota.settlement_requested.v1",
    "sweep": "ai.llmariner.platform.tick.v1",
    "vector_store_attributes": "ai.llmariner.vector_store.file.updated.v1",
    "vector_store_file_removal": "ai.llmariner.vector_store.file.deleted.v1",
    "vector_store_rebuild": "ai.llmariner.vector_store.rebuild_requested.v1",
    "vector_store_removal": "ai.llmariner.vector_store.deleted.v1",
    "vector_store_upkeep": "ai.llmariner.platform.tick.v1",
}
WAYS = {"framework": framework_command, "boot": boot_command}
# A Broker treats a response with a body that is not an event as a failure.
TAKEN = (204, b"")


@pytest.fixture(scope="module")
def ports(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, int]]]:
    """Every consumer in both modes: consumer, then mode."""
    logs = tmp_path_factory.mktemp("consumers")
    environment = installation.environment
    with ExitStack() as children:
        yield {
            name: {
                way: children.enter_context(
                    process(command(CHECKOUT / "eventing" / name), environment, logs / f"{name}-{way}")
                )
                for way, command in WAYS.items()
            }
            for name in TYPES
        }


def posted(port: int, event: Event, **headers: str) -> tuple[int, bytes]:
    said, body = to_http(event)
    answer = send_over_http(port, HttpRequest("POST", "/", body, {**said, **headers}))
    return answer.status, answer.body


TICK = Event(id="evt_tick", type=TYPES["sweep"], subject="platform", time=1.5, data={"every_seconds": 30})


def new_model(installation: Installation, name: str) -> Model:
    location = "org/name"
    return installation.context.registry.create(NewModel(name, SourceRepository.HUGGING_FACE, location))


def test_every_consumer_has_a_test() -> None:
    found = {subscription.consumer: subscription.type for subscription in subscriptions(CHECKOUT / "eventing")}
    assert found == TYPES


@pytest.mark.parametrize("way", WAYS)
def test_the_loader_loads_a_model_once(way: str, ports: dict[str, dict[str, int]], installation: Installation) -> None:
    port, name = ports["model_loader"][way], f"loaded-{way}"
    new_model(installation, name)
    event = write_event(installation, TYPES["model_loader"], {"id": name, "project_id": None})
    assert posted(port, event) == TAKEN
    model = installation.context.registry.get(name)
    assert (model.loaded, model.folder) == (True, "hf://org/name")
    assert posted(port, event) == TAKEN
    assert installation.context.registry.get(name) == model


@pytest.mark.parametrize("way", WAYS)
def test_quotas_are_not_settled_where_there_are_none(
    way: str, ports: dict[str, dict[str, int]], installation: Installation
) -> None:
    port = ports["quota_settlement"][way]
    event = write_event(installation, TYPES["quota_settlement"], {"id": "org_gone", "organization_id": "org_gone"})
    assert posted(port, event) == TAKEN
    assert posted(port, event) == TAKEN
    nameless = write_event(installation, TYPES["quota_settlement"], {"id": "x", "project_id": None})
    assert posted(port, nameless)[0] == 400


@pytest.mark.parametrize("way", WAYS)
def test_the_loader_skips_a_deleted_model(
    way: str, ports: dict[str, dict[str, int]], installation: Installation
) -> None:
    event = write_event(installation, TYPES["model_loader"], {"id": "gone", "project_id": None})
    assert posted(ports["model_loader"][way], event) == TAKEN


def test_a_failed_download_does_not_mark_a_new_model_of_the_same_id(
    installation: Installation, in_process: InProcessClient
) -> None:
    name = "made-again"

    class Failing(StorageUriFetcher):
        def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
            installation.context.registry.delete(name, project_id=None)
            new_model(installation, name)
            raise WeightsUnavailable("the hub is away")

    context = Context(installation.environment)
    context.weights = Failing()
    loader: Any = load(CHECKOUT / "eventing/model_loader")
    loader.use_context(context)
    new_model(installation, name)
    headers, body = to_http(write_event(installation, TYPES["model_loader"], {"id": name, "project_id": None}))
    assert in_process.send(loader, HttpRequest("POST", "/", body, headers)).status == 204
    assert installation.context.registry.get(name).loading_failure_reason == ""
    context.database.close()


@pytest.mark.parametrize("way", WAYS)
def test_retirement_is_idempotent(way: str, ports: dict[str, dict[str, int]], installation: Installation) -> None:
    data = {"id": "gone", "project_id": None, "folder": "hf://org/name"}
    event = write_event(installation, TYPES["model_retirement"], data)
    taken = [posted(ports["model_retirement"][way], event) for _ in range(2)]
    assert taken == [TAKEN] * 2


def test_retirement_keeps_a_registered_models_weights(installation: Installation, in_process: InProcessClient) -> None:
    """An event that comes again when the id is another model's."""
    discarded: list[str] = []

    class Recording(StorageUriFetcher):
        def discard(self, model_id: str, folder: str, successor: Model | None = None) -> None:
            discarded.append(folder)

    context = Context(installation.environment)
    context.weights = Recording()
    retirement: Any = load(CHECKOUT / "eventing/model_retirement")
    retirement.use_context(context)
    name = new_model(installation, "retired").id
    installation.context.registry.mark_loaded(name, folder="hf://org/new", size_bytes=1, task=Task.GENERATE)

    def reported(folder: str) -> list[str]:
        headers, body = to_http(write_event(installation, TYPES["model_retirement"], {"id": name, "folder": folder}))
        assert in_process.send(retirement, HttpRequest("POST", "/", body, headers)).status == 204
        return discarded

    assert reported("hf://org/new") == []
    assert reported("hf://org/old") == ["hf://org/old"]
    installation.context.registry.delete(name, project_id=None)
    assert reported("hf://org/new") == ["hf://org/old", "hf://org/new"]
    context.database.close()


@pytest.mark.parametrize("way", WAYS)
def test_group_settlement_is_idempotent(way: str, ports: dict[str, dict[str, int]], installation: Installation) -> None:
    group = {"issuer": "https://issuer.example", "group": "staff", "after": ""}
    data = {"id": "group_role_1", "organization_id": "org_1", "project_id": None, **group}
    event = write_event(installation, TYPES["group_settlement"], data)
    taken = [posted(ports["group_settlement"][way], event) for _ in range(2)]
    assert taken == [TAKEN] * 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    [name for name in TYPES if name.startswith(("batch_job", "document", "fine_tuning", "notebook", "vector_store"))],
)
def test_consumers_skip_what_is_gone(
    name: str, way: str, ports: dict[str, dict[str, int]], installation: Installation
) -> None:
    ids = {"id": "vsf_gone", "vector_store_id": "vs_gone", "file_id": "file-gone"}
    owner = {"project_id": "proj_1", "organization_id": "org_1"}
    event = TICK if name == "vector_store_upkeep" else write_event(installation, TYPES[name], {**ids, **owner})
    for _ in range(2):
        assert posted(ports[name][way], event) == TAKEN


@pytest.mark.parametrize("way", WAYS)
def test_the_sweep_interrupts_inactive_requests(
    way: str, ports: dict[str, dict[str, int]], installation: Installation
) -> None:
    ledger, now = installation.context.ledger, time.time()
    admitted(ledger, f"gone-{way}", now - 100)
    admitted(ledger, f"here-{way}", now)
    for _ in range(2):
        assert posted(ports["sweep"][way], TICK) == TAKEN
    gone, here = ledger.request(f"gone-{way}"), ledger.request(f"here-{way}")
    assert gone is not None
    assert here is not None
    assert (gone["outcome"], here["outcome"]) == ("interrupted", "open")


@pytest.mark.parametrize("way", WAYS)
def test_the_sweep_prunes_old_requests(way: str, ports: dict[str, dict[str, int]], installation: Installation) -> None:
    ledger, now = installation.context.ledger, time.time()
    for name, age in (("old", 100 * 86400), ("young", 80 * 86400)):
        admitted(ledger, f"{name}-{way}", now - age)
    ledger.interrupt(unseen_for=60)
    assert posted(ports["sweep"][way], TICK) == TAKEN
    assert [ledger.request(f"{name}-{way}") is None for name in ("old", "young")] == [True, False]


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("broken")], ids=["known", "unknown"])
def test_a_failed_step_of_the_sweep_stops_no_other(
    error: Exception, installation: Installation, in_process: InProcessClient
) -> None:
    pruned: list[float] = []
    tidied: list[str] = []

    class UnavailableLedger:
        def interrupt(self, *, unseen_for: float) -> int:
            raise error

        def purge(self, *, older_than: float) -> int:
            raise error

    class Recording(Deliveries):
        def prune(self, *, older_than: float) -> int:
            pruned.append(older_than)
            return 0

    class Serving:
        async def reconcile(self) -> None:
            tidied.append("tidied")

    context = Context(installation.environment)
    context.serving = cast(Any, Serving())
    context.ledger = cast(Any, UnavailableLedger())
    context.deliveries = Recording(context.database, ())
    sweep: Any = load(CHECKOUT / "eventing/sweep")
    sweep.use_context(context)
    headers, body = to_http(TICK)
    assert in_process.send(sweep, HttpRequest("POST", "/", body, headers)).status == 500
    assert (pruned, tidied) == ([7 * 86400.0], ["tidied"])
    context.database.close()


NO_EVENTS: dict[str, tuple[dict[str, str], bytes]] = {
    "an empty request": ({}, b""),
    "JSON without attributes": ({"content-type": "application/json"}, b"{}"),
    "no id": ({"ce-specversion": "1.0", "ce-type": "x", "ce-source": "/x"}, b"{}"),
    "no type": ({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x"}, b"{}"),
    "an unknown version": ({"ce-specversion": "9", "ce-type": "x", "ce-id": "1", "ce-source": "/x"}, b"{}"),
    "data that is a list": ({"ce-specversion": "1.0", "ce-type": "x", "ce-id": "1", "ce-source": "/x"}, b"[]"),
    "data that is no JSON": ({"ce-specversion": "1.0", "ce-type": "x", "ce-id": "1", "ce-source": "/x"}, b"{"),
    "no data": ({"ce-specversion": "1.0", "ce-type": "x", "ce-id": "1", "ce-source": "/x"}, b""),
    "a time that is none": (
        {"ce-specversion": "1.0", "ce-type": "x", "ce-id": "1", "ce-source": "/x", "ce-time": "noon"},
        b"{}",
    ),
}


@pytest.mark.parametrize("what", NO_EVENTS)
@pytest.mark.parametrize("way", WAYS)
def test_a_request_without_an_event_is_rejected_permanently(
    way: str, what: str, ports: dict[str, dict[str, int]]
) -> None:
    headers, body = NO_EVENTS[what]
    for name in TYPES:
        said = {"content-type": "application/json", **headers}
        assert send_over_http(ports[name][way], HttpRequest("POST", "/", body, said)).status == 400, name


def test_a_structured_event_is_accepted(ports: dict[str, dict[str, int]], installation: Installation) -> None:
    new_model(installation, "structured")
    event = write_event(installation, TYPES["model_loader"], {"id": "structured"})
    whole = {"specversion": "1.0", "id": event.id, "source": "/x", "type": event.type, "data": event.data}
    http_request = HttpRequest(
        "POST", "/", json.dumps(whole).encode(), {"content-type": "application/cloudevents+json"}
    )
    for port in ports["model_loader"].values():
        assert send_over_http(port, http_request).status in (200, 204)
    assert installation.context.registry.get("structured").loaded


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["model_loader", "model_retirement"])
def test_an_event_that_is_not_in_the_outbox_is_rejected_permanently(
    name: str, way: str, ports: dict[str, dict[str, int]], installation: Installation
) -> None:
    forged = Event("evt_forged", TYPES[name], "models/x", 1.5, {"id": "x", "project_id": None, "folder": "/"})
    assert posted(ports[name][way], forged)[0] == 400
    of_another_type = write_event(installation, "ai.llmariner.model.updated.v1", {"id": "x", "project_id": None})
    assert posted(ports[name][way], replace(of_another_type, type=TYPES[name]))[0] == 400


@pytest.mark.parametrize("way", WAYS)
def test_the_outbox_overrides_the_delivered_data(
    way: str, ports: dict[str, dict[str, int]], installation: Installation
) -> None:
    names = [f"{what}-{way}" for what in ("meant", "other")]
    for name in names:
        new_model(installation, name)
    event = write_event(installation, TYPES["model_loader"], {"id": names[0], "project_id": None})
    assert posted(ports["model_loader"][way], replace(event, data={"id": names[1], "project_id": None})) == TAKEN
    assert [installation.context.registry.get(name).loaded for name in names] == [True, False]


def test_one_sweep_runs_at_a_time(ports: dict[str, dict[str, int]], installation: Installation) -> None:
    ledger, database = installation.context.ledger, installation.context.database
    admitted(ledger, "gone-once", time.time() - 100)
    lease = WorkLease(database, "sweep", "another")
    assert lease.acquire(30.0) is not None
    assert posted(ports["sweep"]["boot"], TICK) == TAKEN
    assert (ledger.request("gone-once") or {})["outcome"] == "open"
    lease.pause(0.0)
    assert posted(ports["sweep"]["boot"], TICK) == TAKEN
    assert (ledger.request("gone-once") or {})["outcome"] == "interrupted"


@pytest.mark.parametrize("name", ["model_loader", "sweep"])
def test_an_event_is_not_lost_while_the_database_is_down(name: str, tmp_path: Path) -> None:
    secrets = {"LLMARINER_PEPPER": "p" * 32, "LLMARINER_SERVICE_SECRET": "s" * 32}
    environment = {"LLMARINER_DATABASE_URL": f"sqlite:///{tmp_path}/nowhere/x.db", **secrets}
    with process(boot_command(CHECKOUT / "eventing" / name), environment, tmp_path / "log") as port:
        assert posted(port, replace(TICK, type=TYPES[name], data={"id": "x"}))[0] == 500


def test_the_dispatcher_delivers_an_event_from_the_outbox_to_its_consumer(
    installation: Installation, in_process: InProcessClient
) -> None:
    consumers: Any = {name: load(CHECKOUT / "eventing" / name) for name in TYPES}
    for consumer in consumers.values():
        consumer.use_context(installation.context)
    new_model(installation, "dispatched")
    store = Deliveries(installation.context.database, subscriptions(CHECKOUT / "eventing"))
    dispatcher = Dispatcher(store, consumers)

    async def deliver() -> None:
        while store.due() or not installation.context.registry.get("dispatched").loaded:
            await dispatcher.start_due()
            await dispatcher.drain()

    in_process.runner.run(deliver())
    assert installation.context.registry.get("dispatched").loaded
    delivered = store.page("proj_1", "delivered", after=None, limit=100)
    assert ("dispatched", "model_loader") in [(d.event.data.get("id"), d.consumer) for d in delivered]


async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 422, "headers": []})
    await send({"type": "http.response.body", "body": b"never"})


BURIED = {
    "a refuser": ("refuser", "422: never"),
    "one that is gone": ("gone", "410: No consumer of that name is installed any more."),
}


@pytest.mark.parametrize("which", BURIED)
def test_a_permanently_rejected_event_becomes_a_dead_letter(
    which: str, installation: Installation, in_process: InProcessClient
) -> None:
    consumer, reason = BURIED[which]
    type_, project = f"ai.llmariner.test.{consumer}.v1", f"proj_{consumer}"
    with installation.context.database.write() as session:
        outbox.add(session, type_, "x", {"project_id": project})
    store = Deliveries(installation.context.database, [Subscription(consumer, type_)])
    dispatcher = Dispatcher(store, {"refuser": refuse})

    async def deliver() -> None:
        await dispatcher.start_due()
        await dispatcher.drain()

    in_process.runner.run(deliver())
    dead = [d for d in store.page(project, "dead", after=None, limit=10) if d.consumer == consumer]
    assert [(d.attempts, d.last_error) for d in dead] == [(1, reason)]


@pytest.mark.parametrize("status", [404, 408, 409, 429, 500, 503])
def test_the_dispatcher_retries_temporary_failures(
    status: int, installation: Installation, in_process: InProcessClient
) -> None:
    type_, project = f"ai.test.later{status}.v1", f"proj_later{status}"

    async def later(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with installation.context.database.write() as session:
        outbox.add(session, type_, type_, {"project_id": project})
    store = Deliveries(installation.context.database, [Subscription("later", type_)])
    dispatcher = Dispatcher(store, {"later": later})

    async def deliver() -> None:
        await dispatcher.start_due()
        await dispatcher.drain()

    in_process.runner.run(deliver())
    assert [d.attempts for d in store.page(project, "pending", after=None, limit=10) if d.consumer == "later"] == [1]


async def hang(_scope: Any, _receive: Any, _send: Any) -> None:
    await asyncio.Event().wait()


def test_a_hanging_delivery_is_cancelled_and_due_again(installation: Installation, in_process: InProcessClient) -> None:
    type_, project = "ai.test.hangs.v1", "proj_hangs"
    with installation.context.database.write() as session:
        outbox.add(session, type_, "x", {"project_id": project})
    store = Deliveries(installation.context.database, [Subscription("hanging", type_)])
    dispatcher = Dispatcher(store, {"hanging": hang}, {"hanging": 0.1})

    async def deliver() -> None:
        await dispatcher.start_due()
        await asyncio.wait_for(dispatcher.drain(), 20)

    in_process.runner.run(deliver())
    (pending,) = (d for d in store.page(project, "pending", after=None, limit=10) if d.consumer == "hanging")
    assert (pending.attempts, pending.last_error) == (1, "504: It was not done within 0.1 s.")


def test_delivery_timeouts_match_those_of_a_cluster_and_downloads_may_take_longer() -> None:
    seconds = delivery_timeouts(CHECKOUT / "eventing")
    assert seconds.keys() == {file.parent.name for file in CHECKOUT.glob("eventing/*/trigger.yaml")}
    assert (seconds["sweep"], seconds["group_settlement"]) == (600, 60)
    assert seconds["model_loader"] >= 3600


def admitted(ledger: Ledger, request_id: str, at: float) -> None:
    identity = {"organization_id": "org_1", "project_id": "proj_1", "user_id": "user_1", "key_id": "key_1"}
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0}
    said = {"request_id": request_id, "model": "m", "route": "r", "sequence": 0, "kind": "admitted"}
    ledger.record([{**identity, **counts, **said, "at": at, "admitted_at": at}])
