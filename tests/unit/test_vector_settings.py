"""Settings of the vector index: each invalid or contradictory variable is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmariner.settings import VectorSettings

URI = "LLMARINER_MILVUS_URI"
TLS = {URI: "https://milvus:19530"}


def test_address_alone_has_the_documented_defaults() -> None:
    settings = VectorSettings.load({URI: "http://milvus:19530/"})
    assert (settings.uri, settings.database, settings.seconds) == ("http://milvus:19530", "default", 30.0)
    assert not settings.token


def test_token_is_read_from_its_file_and_hidden(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("user:password\n")
    settings = VectorSettings.load({**TLS, "LLMARINER_MILVUS_TOKEN_FILE": str(tmp_path / "token")})
    assert settings.token.reveal() == "user:password"
    assert "password" not in repr(settings)


INVALID = [
    ({}, URI),
    ({URI: "milvus:19530"}, URI),
    ({URI: "tcp://milvus:19530"}, URI),
    ({URI: "http://milvus"}, URI),
    ({URI: "http://:19530"}, URI),
    ({URI: "http://milvus:99999"}, URI),
    ({URI: "http://milvus:19530/database"}, URI),
    ({URI: "http://root:secret@milvus:19530"}, "LLMARINER_MILVUS_TOKEN_FILE"),
    ({URI: "http://milvus:19530", "LLMARINER_MILVUS_CA_FILE": "/ca.pem"}, "https"),
    ({URI: "http://milvus:19530", "LLMARINER_MILVUS_SERVER_NAME": "milvus"}, "https"),
    ({**TLS, "LLMARINER_MILVUS_CLIENT_KEY_FILE": "/key"}, "LLMARINER_MILVUS_CLIENT_CERTIFICATE_FILE"),
    ({**TLS, "LLMARINER_MILVUS_CLIENT_CERTIFICATE_FILE": "/crt"}, "LLMARINER_MILVUS_CLIENT_KEY_FILE"),
    (
        {**TLS, "LLMARINER_MILVUS_CLIENT_CERTIFICATE_FILE": "/crt", "LLMARINER_MILVUS_CLIENT_KEY_FILE": "/key"},
        "LLMARINER_MILVUS_CA_FILE",
    ),
    ({**TLS, "LLMARINER_MILVUS_DATABASE": "no spaces"}, "LLMARINER_MILVUS_DATABASE"),
    ({**TLS, "LLMARINER_MILVUS_SECONDS": "0"}, "LLMARINER_MILVUS_SECONDS"),
    ({**TLS, "LLMARINER_MILVUS_SECONDS": "nan"}, "LLMARINER_MILVUS_SECONDS"),
    ({**TLS, "LLMARINER_MILVUS_INDEX": "BEST"}, "LLMARINER_MILVUS_INDEX"),
]


@pytest.mark.parametrize(("env", "named"), INVALID)
def test_invalid_setting_is_named(env: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named) as raised:
        VectorSettings.load(env)
    assert "secret" not in str(raised.value)
