"""Settings of vector stores."""

from __future__ import annotations

import pytest

from llmariner.vector_store_settings import VectorStoreSettings


def test_settings_are_read_from_the_environment() -> None:
    env = {
        "LLMARINER_EMBEDDING_MODEL": "org/embedder",
        "LLMARINER_VECTOR_STORE_UNIQUE_NAMES": "1",
        "LLMARINER_VECTOR_STORES_PER_PROJECT": "5",
        "LLMARINER_VECTOR_STORE_FILES": "6",
    }
    assert VectorStoreSettings.load(env) == VectorStoreSettings("org/embedder", True, 5, 6)
    assert VectorStoreSettings.load(dict.fromkeys(env, "")) == VectorStoreSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLMARINER_VECTOR_STORE_UNIQUE_NAMES", "yes"),
        ("LLMARINER_VECTOR_STORES_PER_PROJECT", "0"),
        ("LLMARINER_VECTOR_STORES_PER_PROJECT", "many"),
        ("LLMARINER_VECTOR_STORE_FILES", "-1"),
    ],
)
def test_an_invalid_value_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        VectorStoreSettings.load({name: value})
