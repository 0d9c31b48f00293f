"""Files go to the object store, by the Broker into the vector index, and out of both."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llmariner.platform.vectors import Collection
from llmariner.settings import StandaloneSettings, environment

from ...lab.wait import until
from ...platform.installed import Installed
from ..platform_client import PlatformClient
from .stores import DocumentStores, NoGateway, platform_with_stores, running_stores

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

Json = dict[str, Any]

_MODEL, _DIMENSION = "all-minilm-l6-v2", 384
_OFFICE = b"# Office\n\nThe office in Lyon closes at six in the evening.\n"
_LEAVE = (b"# Leave\n\nEverybody has thirty days ", b"of leave in a year.\n")


@pytest.fixture(scope="module")
def stores(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentStores]:
    """The platform with an object store, a vector index, and the embedding model of this machine."""
    folder = StandaloneSettings.load(environment()).cache / "models"
    weights = next((each.name for each in folder.glob(f"{_MODEL}-*")), None)
    if weights is None:
        pytest.skip(f"this machine has no weights of {_MODEL}; `make up` installs them")
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(running_stores(tmp_path_factory.mktemp("stores"), installed.lab.host_address))
        except NoGateway as error:
            pytest.skip(str(error))
        stack.enter_context(platform_with_stores(installed, running))
        installed.register(_MODEL, weights)
        yield running


@pytest.fixture
def client(installed: Installed) -> Iterator[PlatformClient]:
    with contextlib.closing(PlatformClient(installed)) as client:
        yield client


@pytest.fixture
def store_id(client: PlatformClient, stores: DocumentStores) -> Iterator[str]:
    """A vector store; deleted at the end, where the test has not done it, so that no event of it is left."""
    store = called(client, "POST", "/vector_stores", {"name": f"handbook-{uuid.uuid4().hex[:6]}"})
    assert store["embedding_model"] == _MODEL
    yield str(store["id"])
    client.installed.call("DELETE", f"/vector_stores/{store['id']}")


def called(client: PlatformClient, method: str, path: str, body: Json | None = None) -> Json:
    """The answer of a call that succeeds."""
    status, answer = client.installed.call(method, path, body)
    assert status == 200, answer
    return dict(answer)


def sent(client: PlatformClient, path: str, field: str, name: str, content: bytes, **fields: str) -> Json:
    """The answer to a form with a file."""
    url, head = f"{client.installed.base_url}{path}", {"authorization": f"Bearer {client.key}"}
    answer = httpx2.post(url, headers=head, data=fields, files={field: (name, content)}, timeout=120)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def content_of(client: PlatformClient, file_id: str) -> bytes:
    url, head = f"{client.installed.base_url}/files/{file_id}/content", {"authorization": f"Bearer {client.key}"}
    answer = httpx2.get(url, headers=head, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.content


def ingested(client: PlatformClient, store_id: str, file_id: str) -> Json:
    """The file in the vector store, once it is completed. The clock ticks: the model may not be awake in time."""
    seen: list[Json] = []

    def missing() -> str | None:
        seen.append(called(client, "GET", f"/vector_stores/{store_id}/files/{file_id}"))
        assert seen[-1]["status"] in ("in_progress", "completed"), seen[-1]
        return None if seen[-1]["status"] == "completed" else f"{seen[-1]['progress']} {seen[-1]['last_error']}"

    client.ticking(f"{file_id} is ingested", missing, seconds=600)
    return seen[-1]


def found(client: PlatformClient, store_id: str, query: str, **more: Any) -> list[Json]:
    """The results of a search, as soon as the model that embeds the query is awake."""
    answers: list[Json] = []

    def missing() -> str | None:
        status, answer = client.installed.call("POST", f"/vector_stores/{store_id}/search", {"query": query, **more})
        assert status in (200, 503), answer
        answers.append(answer)
        return None if status == 200 else str(answer["error"]["message"])

    until("the search answers", missing, seconds=300)
    return list(answers[-1]["data"])


def test_a_file_is_stored_ingested_found_and_removed(
    client: PlatformClient, stores: DocumentStores, store_id: str
) -> None:
    collection = Collection(_MODEL, _DIMENSION)
    file_id = str(sent(client, "/files", "file", "office.md", _OFFICE, purpose="assistants")["id"])
    (key,) = stores.keys()
    assert key.startswith("files/")
    assert content_of(client, file_id) == _OFFICE
    called(client, "POST", f"/vector_stores/{store_id}/files", {"file_id": file_id, "attributes": {"year": 2026}})
    assert ingested(client, store_id, file_id)["progress"]["chunks"] == 1
    assert stores.has_chunks(collection)
    (hit,) = found(client, store_id, "When does the office close?")
    assert (hit["file_id"], hit["filename"], hit["attributes"]) == (file_id, "office.md", {"year": 2026})
    assert "six in the evening" in hit["content"][0]["text"]
    assert not found(client, store_id, "When?", filters={"type": "eq", "key": "year", "value": 2025})

    called(client, "DELETE", f"/vector_stores/{store_id}/files/{file_id}")
    assert not found(client, store_id, "When does the office close?")
    client.ticking("no chunk is left", lambda: "some are left" if stores.has_chunks(collection) else None)
    called(client, "DELETE", f"/files/{file_id}")
    until("no object is left", lambda: ", ".join(stores.keys()) or None, seconds=60)


def test_an_upload_in_parts_is_ingested_and_its_chunks_go_with_the_vector_store(
    client: PlatformClient, stores: DocumentStores, store_id: str
) -> None:
    collection, size = Collection(_MODEL, _DIMENSION), sum(map(len, _LEAVE))
    new = {"filename": "leave.md", "purpose": "assistants", "bytes": size, "mime_type": "text/markdown"}
    upload = f"/uploads/{called(client, 'POST', '/uploads', new)['id']}"
    parts = [sent(client, f"{upload}/parts", "data", "part", part)["id"] for part in _LEAVE]
    assert len(stores.keys()) == len(parts)
    file_id = str(called(client, "POST", f"{upload}/complete", {"part_ids": parts})["file"]["id"])
    assert content_of(client, file_id) == b"".join(_LEAVE)
    until("the parts are one object", lambda: None if len(stores.keys()) == 1 else "parts are left", seconds=60)
    called(client, "POST", f"/vector_stores/{store_id}/files", {"file_id": file_id})
    ingested(client, store_id, file_id)
    (hit,) = found(client, store_id, "How many days of leave are there?")
    assert "thirty days of leave" in hit["content"][0]["text"]

    called(client, "DELETE", f"/vector_stores/{store_id}")
    assert client.installed.call("GET", f"/vector_stores/{store_id}")[0] == 404
    client.ticking("no chunk is left", lambda: "some are left" if stores.has_chunks(collection) else None)
    assert content_of(client, file_id) == b"".join(_LEAVE), "a file outlives the vector store"
    called(client, "DELETE", f"/files/{file_id}")
    until("no object is left", lambda: ", ".join(stores.keys()) or None, seconds=60)
