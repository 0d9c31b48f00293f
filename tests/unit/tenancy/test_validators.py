"""Titles and e-mail addresses: normalization, confusable titles, and titles that look like ids."""

from __future__ import annotations

import pytest

from llmariner.errors import InvalidRequest
from llmariner.identifiers import new_id
from llmariner.platform.identity.email_addresses import normalize_email
from llmariner.tenancy import validators


def test_a_title_is_normalized() -> None:
    assert validators.validate_title(" Bu\u0308cher ") == "B\u00fccher"


@pytest.mark.parametrize(
    "bad", ["", " ", "a\u200bb", "a\u202eb", "a\u2066b", "a\ud800b", "a\x1bb", "a\u00adb", "\ufeff"]
)
def test_a_title_has_no_invisible_characters(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        validators.validate_title(bad)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Vision", "\uff36ision"),
        ("fi", "\ufb01"),
        ("a", "a\ufe0f"),
        ("B\u00fccher", "Bu\u0308cher"),
        ("a b", "a\u2003b"),
    ],
)
def test_titles_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert validators.skeleton(one) == validators.skeleton(other)


def test_case_and_script_distinguish_titles() -> None:
    assert len({validators.skeleton(each) for each in ("Vision", "vision", "V\u0456sion")}) == 3


@pytest.mark.parametrize("prefix", ["proj", "org", "user", "key", "group_role"])
def test_an_id_is_not_a_title(prefix: str) -> None:
    for title in (new_id(prefix), new_id(prefix).upper()):
        assert validators.looks_like_id(title)
        with pytest.raises(InvalidRequest):
            validators.validate_selectable_title(title)
    assert validators.validate_selectable_title("org_chart") == "org_chart"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (" Ann@Example.ORG ", "ann@example.org"),
        ("j\u00f6rg@b\u00fccher.de", "j\u00f6rg@b\u00fccher.de"),
        ("mi\u212ae@example.org", None),
        ("\uff41nn@example.org", None),
        ("jo\u0308rg@example.org", None),
        ("ann\u200b@example.org", None),
        ("ann\ufe0f@example.org", None),
        ("ann\u202e@example.org", None),
        ("ann", None),
        ("a@b@c", None),
        ("a" * 250 + "@x.org", None),
    ],
)
def test_an_email_has_one_form(said: str, found: str | None) -> None:
    assert normalize_email(said) == found
