"""The checks of words and module names find what they are for, and nothing else."""

from __future__ import annotations

import pytest

from .modules import module_faults
from .words import FOLDER, Entry, entries, word_faults

AMERICAN = entries((FOLDER / "american_spelling.txt").read_text())
RETIRED = entries((FOLDER / "retired_words.txt").read_text())


def found(text: str, words: list[Entry], name: str = "docs/page.md") -> list[str]:
    return [fault.split("'")[1] for fault in word_faults(name, text, words)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The Organisations of a user", "Organisations"),
        ("def recognise_token(): ...", "recognise"),
        ("class ColourTheme: ...", "colour"),
        ("BEHAVIOUR = 1", "behaviour"),
        ("a labelled pod", "labelled"),
    ],
)
def test_british_spelling_is_found_in_prose_and_in_parts_of_identifiers(text: str, fault: str) -> None:
    assert [word.lower() for word in found(text, AMERICAN)] == [fault.lower()]


@pytest.mark.parametrize(
    "text",
    [
        "An organization authorizes a realistic analysis, exercises and promises of an optimistic specialist.",
        "The contour of a center is otherwise precise; a parameter, a diameter and a modeler; cancelled and canceled.",
        "See https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin.",
    ],
)
def test_american_spelling_and_addresses_are_not(text: str) -> None:
    assert found(text, AMERICAN) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The doors of a platform", "doors"),
        ("a caller is let in", "let in"),
        ("# a stream goes\n# on", "goes on"),
        ("def let_in(): ...", "let_in"),
        ("from llmariner.gateway.room import AdmissionQueue", "llmariner.gateway.room"),
        ("see shared/llmariner/tenancy/arrivals.py", "tenancy/arrivals"),
        ("Whoever asks", "whoever"),
        ("self._give_back(size)", "_give_back"),
        ("class CallerGone:", "CallerGone"),
    ],
)
def test_a_retired_word_is_found_in_prose_identifiers_and_paths(text: str, fault: str) -> None:
    assert found(text, RETIRED) == [fault]


@pytest.mark.parametrize(
    "text",
    [
        "indoor",
        "an outlet in a wall",
        "gateway/rooms.py",
        "llmariner.control_plane",
        "LLMARINER_OIDC_NEWCOMERS",
        "give_backing",
        "ledgerbook",
        "server.head(path)",
        "lets in-flight requests end",
    ],
)
def test_other_words_and_settings_are_not(text: str) -> None:
    assert found(text, RETIRED) == []


def test_a_file_may_be_exempt_from_a_word() -> None:
    words = entries("# comment\n\ndoors? | ingress | docs/old.md tests/*\n")
    assert found("door", words, "docs/old.md") == found("door", words, "tests/unit/x.py") == []
    assert found("door", words, "docs/new.md") == ["door"]


def test_every_line_of_a_word_is_named() -> None:
    assert list(word_faults("a.md", "a door\n\nand a door", RETIRED)) == [
        f"a.md:{line}: 'door': write 'ingress, entry point, API'" for line in (1, 3)
    ]


def test_gerunds_and_vague_names_of_modules_are_found() -> None:
    names = ["shared/a/asking.py", "shared/a/utils.py", "shared/common/keys.py", "tests/a/key_building.py"]
    assert [fault.partition(":")[0] for fault in module_faults(names)] == sorted(names)


def test_nouns_settings_and_test_modules_are_not() -> None:
    names = ["shared/a/serving/pricing.py", "shared/a/settings.py", "tests/a/test_streaming.py", "docs/asking.md"]
    assert list(module_faults(names)) == []
