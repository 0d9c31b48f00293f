"""Values that are encrypted in the database."""

from __future__ import annotations

import pytest

from llmariner.platform.encryption import Encryption, Undecipherable
from llmariner.settings import Secret

OLD, NEW = Secret("o" * 32), Secret("n" * 32)


def test_a_value_is_read_with_its_secret_for_its_purpose_and_place_alone() -> None:
    encryption = Encryption([OLD], "tests")
    text, again = encryption.encrypt("s3cret ä", "row 1"), encryption.encrypt("s3cret ä", "row 1")
    assert encryption.decrypt(text, "row 1") == "s3cret ä"
    assert (text.isascii(), "s3cret" in text, text == again) == (True, False, False)
    changed = text[:-6] + ("A" if text[-6] != "A" else "B") + text[-5:]
    others = (Encryption([NEW], "tests"), text, "row 1"), (Encryption([OLD], "others"), text, "row 1")
    for other, value, place in (*others, (encryption, text, "row 2"), (encryption, changed, "row 1")):
        with pytest.raises(Undecipherable):
            other.decrypt(value, place)


def test_a_renewed_value_needs_the_old_secret_no_more() -> None:
    text = Encryption([OLD], "tests").encrypt("s3cret", "row")
    renewed = Encryption([NEW, OLD], "tests").renewed(text, "row")
    assert Encryption([NEW], "tests").decrypt(renewed, "row") == "s3cret"
    assert renewed.startswith(f"{Encryption([NEW], 'tests').key_id}.")
    with pytest.raises(Undecipherable):
        Encryption([NEW], "tests").renewed(text, "row")
