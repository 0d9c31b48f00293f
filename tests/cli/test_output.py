"""Tables and documents, and the differences of output between terminals and pipes."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from llmariner.cli.support.output import Column, Printer, format_bytes, format_number, format_timestamp
from llmariner.cli.support.terminal import strip_control_characters

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma

LONG = "organization/" + "a-model-with-a-very-long-name-" * 8


def serve(platform: FakePlatform, *models: dict[str, Any]) -> None:
    platform.respond("GET /models", {"object": "list", "data": list(models), "has_more": False})


def test_off_a_terminal_an_object_is_a_line_without_color(llma: Llma, platform: FakePlatform) -> None:
    serve(platform, {"id": LONG, "activation_status": "ACTIVE"}, {"id": "b\nc"})
    header, first, second = llma("models", "list").out.splitlines()
    assert header.split() == ["ID", "PHASE", "STATUS", "LOADING", "SOURCE", "OWNED", "BY", "CREATED"]
    assert first.split() == [LONG, "-", "active", "-", "-", "-", "-"]
    assert second.split()[:2] == ["b", "c"]


def test_the_color_option_always_and_never_apply(llma: Llma, platform: FakePlatform) -> None:
    serve(platform, {"id": "a", "activation_status": "ACTIVE"})
    assert "\x1b[32mactive" in llma("models", "list", "--color", "always").out
    assert "\x1b" not in llma("models", "list", "--color", "never").out


def test_cells_contain_no_markup_and_no_escape_sequences(llma: Llma, platform: FakePlatform) -> None:
    serve(platform, {"id": "[red]a[/red] :smile: \x1b[2Jb"})
    assert "[red]a[/red] :smile: [2Jb" in llma("models", "list").out


def test_an_empty_table_is_reported_on_stderr(llma: Llma, platform: FakePlatform) -> None:
    serve(platform)
    result = llma("models", "list")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("No models")
    assert llma("models", "list", "-o", "json").json["data"] == []


def test_a_list_is_read_to_its_last_page(llma: Llma, platform: FakePlatform) -> None:
    pages: list[dict[str, Any]] = [
        {"object": "list", "data": [{"id": "a"}, {"id": "b"}], "has_more": True, "total_items": 4},
        {"object": "list", "data": [{"id": "c"}], "last_id": "cursor", "has_more": True, "total_items": 4},
        {"object": "list", "data": [{"id": "d"}], "has_more": False, "total_items": 4},
    ]
    platform.respond("GET /models", *pages)
    document = llma("models", "list", "-o", "json").json
    assert [model["id"] for model in document["data"]] == ["a", "b", "c", "d"]
    assert (document["has_more"], document["total_items"]) == (False, 4)
    assert [request.query.get("after") for request in platform.requests] == [None, "b", "cursor"]


def test_an_empty_page_ends_the_list(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /models", {"data": [], "has_more": True})
    assert llma("models", "list", "-o", "json").json["data"] == []
    assert len(platform.requests) == 1


def test_events_are_listed_newest_first_up_to_the_limit(llma: Llma, platform: FakePlatform) -> None:
    def page(first: int, count: int) -> dict[str, Any]:
        events = [{"id": "same", "cursor": str(number)} for number in range(first, first - count, -1)]
        return {"data": events, "has_more": True}

    platform.respond("GET /events", page(300, 100), page(200, 100))
    document = llma("events", "list", "--limit", "130", "-o", "json").json
    assert [event["cursor"] for event in document["data"]] == [str(number) for number in range(300, 170, -1)]
    assert document["has_more"] is True
    queries = [(request.query["limit"], request.query.get("after")) for request in platform.requests]
    assert queries == [("100", None), ("100", "201")]
    platform.respond("GET /events", page(300, 20))
    assert len(llma("events", "list", "--limit", "20", "-o", "json").json["data"]) == 20
    assert len(platform.requests) == 3


def test_usage_covers_the_requested_days_and_groups(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /api_usages", {"data": [{"model": "a/b", "prompt_tokens": 1234}]})
    header, row = llma("usage", "list", "--days", "7", "--by", "model").out.splitlines()
    assert header.startswith("MODEL   REQUESTS")
    assert row.split() == ["a/b", "-", "-", "1,234", "-", "-"]
    asked = platform.requests[0].query
    assert time.time() - 7 * 86_400 - 10 < int(asked["start_time"]) <= time.time() - 7 * 86_400
    assert asked["group_by"] == "model"
    assert len(platform.requests) == 1, "key names are of no use here"
    llma("usage", "list", "-o", "json")
    assert abs(time.time() - 30 * 86_400 - int(platform.requests[-1].query["start_time"])) < 10


def test_usage_shows_key_ids_without_permission_to_list_keys(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /api_usages", {"data": [{"key": "key_1", "model": "m", "day": 0}]})
    platform.respond_error("GET /api_keys", 403)
    result = llma("usage", "list")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[1].split()[:3] == ["1970-01-01", "key_1", "m"]


def test_many_scopes_are_shown_as_a_count(llma: Llma, platform: FakePlatform) -> None:
    scopes = [f"api.thing{number}.read" for number in range(22)]
    platform.respond("GET /api_keys", {"data": [{"id": "key_1", "name": "admin", "scopes": scopes}]})
    result = llma("auth", "api-keys", "list")
    assert "22 scopes" in result.out
    assert "thing0" not in result.out


@pytest.mark.parametrize(("days", "seconds"), [("2", 172_800), ("0.5", 43_200), ("0.000001", 1)])
def test_a_keys_expiry_is_given_in_days(days: str, seconds: int, llma: Llma, platform: FakePlatform) -> None:
    platform.respond("POST /api_keys", {"id": "key_1", "secret": "s"})
    llma("auth", "api-keys", "create", "ci", "--expires-in", days)
    assert platform.requests[0].body == {"name": "ci", "expires_in_seconds": seconds}


def test_status_shows_a_failed_models_reason(llma: Llma, platform: FakePlatform) -> None:
    details = {"status_message": "out of memory"}
    models = [
        {"id": "a", "phase": "failed", "progress": 0.5, "status_details": details},
        {"id": "b", "phase": "asleep", "progress": 0.0, "estimate_seconds": 4},
    ]
    platform.respond("GET /inference/status", {"cluster_statuses": [{"engine_statuses": [{"models": models}]}]})
    header, failed, asleep = llma("status").out.splitlines()
    assert header.split()[-1] == "MESSAGE"
    assert failed.split()[2] == "failed"
    assert failed.rstrip().endswith("out of memory")
    assert asleep.split()[1:4] == ["-", "asleep", "-"]


def test_listed_keys_show_no_secret_even_if_the_server_sends_one(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /api_keys", {"data": [{"id": "key_1", "name": "ci", "secret": "llmk_leaked"}]})
    platform.respond("PATCH /api_keys/key_1", {"id": "key_1", "name": "x", "secret": "llmk_leaked"})
    for form in ("table", "json", "yaml"):
        assert "llmk_leaked" not in llma("auth", "api-keys", "list", "-o", form).out
        assert "llmk_leaked" not in llma("auth", "api-keys", "update", "ci", "--new-name", "x", "-o", form).out


def test_a_new_secret_is_the_only_output_on_stdout(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("POST /api_keys", {"id": "key_1", "name": "ci", "secret": "llmk_new"})
    result = llma("auth", "api-keys", "create", "ci")
    assert result.out == "llmk_new\n"
    assert "llmk_new" not in result.err


def test_text_in_other_scripts_is_unchanged_in_json_and_yaml(llma: Llma, platform: FakePlatform) -> None:
    serve(platform, {"id": "modèle-模型"})
    assert "modèle-模型" in llma("models", "list", "-o", "json").out
    assert "modèle-模型" in llma("models", "list", "-o", "yaml").out


IDS = [
    ("a/b", "/models/a/b"),
    ("a b?c#d", "/models/a%20b%3Fc%23d"),
    ("ft:base/x:mine", "/models/ft%3Abase/x%3Amine"),
    ("100%", "/models/100%25"),
    ("模", "/models/%E6%A8%A1"),
]


@pytest.mark.parametrize(("model", "path"), IDS)
def test_an_id_keeps_its_slashes_and_other_url_characters_are_escaped(
    model: str, path: str, llma: Llma, platform: FakePlatform
) -> None:
    platform.respond(f"GET {path}", {"id": model})
    assert llma("models", "get", model).code == 0
    assert platform.requests[0].path == path


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1.5 * 1024**3, "1.5 GiB"),
        (1024**5, "1024.0 TiB"),
        (None, None),
    ],
)
def test_sizes_have_binary_units(value: float | None, shown: str | None) -> None:
    assert format_bytes(value) == shown


def test_numbers_are_accepted_as_numbers_or_text() -> None:
    assert (format_number("1234567"), format_number(1.25, 1), format_number(None), format_number("x")) == (
        "1,234,567",
        "1.2",
        None,
        None,
    )


def test_times_are_accepted_as_seconds_or_iso_text(home: object) -> None:
    assert format_timestamp(0) is None
    assert format_timestamp(None) is None
    assert format_timestamp("soon") == "soon"
    assert (
        format_timestamp("2026-11-24T10:00:00+00:00")
        == format_timestamp(1_795_514_400)
        == format_timestamp("1795514400")
    )


def test_control_characters_are_removed_and_line_breaks_kept() -> None:
    assert strip_control_characters("a\x1b[31m\x00\x07b\r\n\tc\x7f\x80\x9b\x9f\u2028") == "a[31mb\n\tc\u2028"
    assert strip_control_characters(" ~\xa0") == " ~\xa0"
    assert (
        strip_control_characters("invoice\u202efdp.\u202cexe \u2066a\u2067b\u2068c\u2069 \u202a\u202b\u202d")
        == "invoicefdp.exe abc "
    )
    assert strip_control_characters("\u200eא\u200f") == "\u200eא\u200f"


def test_a_column_has_its_fields_title() -> None:
    assert (Column.of("owned_by").title, Column.of("model_id", "MODEL").title) == ("OWNED BY", "MODEL")
    assert Printer("table", "auto").is_table
    assert not Printer("yaml", "auto").is_table


@pytest.mark.parametrize("width", [40, 80])
def test_without_wrapping_a_record_takes_one_line_and_cells_are_cut(width: int) -> None:
    records = [{"file": f"{name}.pdf", "error": "It is encrypted, " * 9} for name in ("a", "報告書 " * 9)]
    console = Console(width=width, file=io.StringIO())
    console.print(Printer("table", "never").table(records, [Column.of("file"), Column.of("error")], wrap=False))
    assert isinstance(console.file, io.StringIO)
    _, *lines = console.file.getvalue().splitlines()
    assert [line.rstrip()[-1] for line in lines] == ["…", "…"]
    assert {cell_len(line) for line in lines} == {width}
