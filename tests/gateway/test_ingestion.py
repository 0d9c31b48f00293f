"""A file becomes answers: through the platform's events and token path, counted to the key that added it."""

from __future__ import annotations

from pathlib import Path

from llmariner.context import Context
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess
from llmariner.vector_stores.query import SearchQuery
from llmariner.vector_stores.store import NewStoreFile, NewVectorStore

from .document_library import add_file, deliver
from .running_platform import Platform, eventually


def test_a_file_is_found_by_its_words_and_counts_to_the_key_that_added_it(platform: Platform, tmp_path: Path) -> None:
    model = platform.model("all-minilm-l6-v2", task="embed")
    key_id, client = platform.key("librarian", limited=True)
    context = Context({**platform.environment, "LLMARINER_OBJECTS_FOLDER": str(tmp_path / "objects")})
    server = MilvusLiteProcess(tmp_path / "milvus", tmp_path / "milvus.log")
    index = context.vectors = MilvusIndex(server.settings)
    try:
        caller = context.authenticator.authenticate(client.secret)
        assert caller is not None
        files = [NewStoreFile(add_file(context, caller, text)) for text in ("# Pumps\n\nThe red pump.", "A valve.")]
        store = context.vector_stores.create(caller, NewVectorStore(files=files))
        deliver(context)
        assert context.vector_stores.get(caller.key_owner.project_id, store.id).contents.counts == {"completed": 2}
        page = context.vector_store_search.search(caller, [store.id], SearchQuery(("red pump",)))
        assert page.results[0].file_id == files[0].file_id
        assert page.results[0].headings == ("Pumps",)

        def counted() -> bool:
            return {row["key_id"] for row in platform.ledger(model)} == {key_id}

        eventually(counted, what="the usage of the key")
        context.vector_store_files.remove(caller, store.id, files[0].file_id)
        deliver(context)
        page = context.vector_store_search.search(caller, [store.id], SearchQuery(("red pump",)))
        assert [each.file_id for each in page.results] == [files[1].file_id]
    finally:
        index.close()
        server.close()
        context.database.close()
