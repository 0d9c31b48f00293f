"""Path templates of func.yaml as patterns: which paths match."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmariner.standalone.router import declared_paths, path_pattern

CASES: list[tuple[str, list[str], list[str]]] = [
    ("/v1/models", ["/v1/models"], ["/v1/models/", "/v1/modelsx", "x/v1/models", "/v1.models", ""]),
    (
        "/v1/api_keys/{id}",
        ["/v1/api_keys/a", "/v1/api_keys/a:b", "/v1/api_keys/ä b"],
        ["/v1/api_keys", "/v1/api_keys/", "/v1/api_keys/a/b"],
    ),
    ("/v1/api_keys/{id}:rotate", ["/v1/api_keys/a:rotate"], ["/v1/api_keys/:rotate", "/v1/api_keys/a/b:rotate"]),
    ("/v1/models/{id:path}", ["/v1/models/a", "/v1/models/a/b/c", "/v1/models/a:x"], ["/v1/models/", "/v1/models"]),
    (
        "/v1/models/{id:path}:activate",
        ["/v1/models/a:activate", "/v1/models/a/b:activate", "/v1/models/a:b:activate"],
        ["/v1/models/:activate", "/v1/models/a:activate/x", "/v1/models/a:deactivate"],
    ),
    ("/a.b/{x}/c/{y}", ["/a.b/1/c/2"], ["/aXb/1/c/2", "/a.b/1/c/2/", "/a.b/1/2/c/3"]),
]


@pytest.mark.parametrize(("template", "taken", "left"), CASES, ids=[case[0] for case in CASES])
def test_a_template_matches_complete_paths_of_its_form(template: str, taken: list[str], left: list[str]) -> None:
    pattern = path_pattern(template)
    assert [path for path in taken if not pattern.fullmatch(path)] == []
    assert [path for path in left if pattern.fullmatch(path)] == []


def declare(folder: Path, routes: str, visibility: str) -> Path:
    lines = "".join(f"      {route}\n" for route in routes.splitlines())
    annotations = f"    llmariner.ai/routes: |\n{lines}    llmariner.ai/visibility: {visibility}\n"
    (folder / "func.yaml").write_text(f"deploy:\n  annotations:\n{annotations}")
    return folder


def test_paths_are_read_once_each_in_order(tmp_path: Path) -> None:
    folder = declare(tmp_path, "GET /b\nPOST /b\nGET /a/{id}\n\nGET /c", "public")
    assert declared_paths(folder) == ["/b", "/a/{id}", "/c"]


def test_internal_routes_have_no_path(tmp_path: Path) -> None:
    assert declared_paths(declare(tmp_path, "POST /internal", "cluster-local")) == []
