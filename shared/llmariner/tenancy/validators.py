"""Names that people give to things, as they are stored: titles, e-mail addresses, Kubernetes labels."""

from __future__ import annotations

import re
import unicodedata

from llmariner.errors import InvalidRequest
from llmariner.platform.identity import addresses

__all__ = [
    "address",
    "has_public_domain",
    "label",
    "label_key",
    "label_value",
    "looks_like_id",
    "selectable_title",
    "skeleton",
    "title",
]

_LONGEST_TITLE = 256
# As `identifiers.new_id` makes them.
_ID = re.compile(r"[a-z_]+_[0-9a-z]{22}")
# Top-level domains that are nobody's in particular (RFC 6761, 6762, 8375, 7686, and ICANN's 'internal').
_PRIVATE_DOMAINS = frozenset(
    {"arpa", "corp", "example", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain", "localhost"}
    | {"mail", "onion", "private", "test"}
)
# A DNS label (RFC 1123), and the parts of a Kubernetes label.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/")
_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def title(said: str, param: str = "title", *, most: int = _LONGEST_TITLE) -> str:
    """A title or name without the space around it, in Unicode's form NFC.

    InvalidRequest when it is empty, too long or holds what is not printable: control characters, characters without width or
    that change the direction of text.
    """
    stripped = unicodedata.normalize("NFC", said.strip())
    if not 1 <= len(stripped) <= most or not stripped.isprintable():
        raise InvalidRequest(f"'{param}' must be 1 to {most} printable characters.", param=param)
    return stripped


def selectable_title(said: str, param: str = "title", *, most: int = _LONGEST_TITLE) -> str:
    """The title of what requests select by id or title. InvalidRequest also for one that looks like an id."""
    found = title(said, param, most=most)
    if looks_like_id(found):
        raise InvalidRequest(f"'{param}' must not look like an id: choose another one than '{found}'.", param=param)
    return found


def looks_like_id(said: str) -> bool:
    """Whether it has the form of our ids."""
    return _ID.fullmatch(said.lower()) is not None


def skeleton(said: str) -> str:
    """What is left of a title without the differences that nobody sees: two with one skeleton are taken for the same."""
    return addresses.INVISIBLE_CHARACTERS.sub("", unicodedata.normalize("NFKC", said))


def address(said: str, param: str = "email") -> str:
    """An e-mail address in lower case, which is how people are told apart. InvalidRequest when it is none."""
    found = addresses.normalize_email(said)
    if found is None:
        raise InvalidRequest(
            f"'{param}' must be an e-mail address of a person, such as ann@example.org, in Unicode's form NFKC.",
            param=param,
        )
    return found


def has_public_domain(address: str) -> bool:
    """Whether the domain of an e-mail address can be somebody's on the internet: no bare host, no IP address, none of the
    names that every network may use for itself."""
    *above, top = address.rpartition("@")[2].rstrip(".").split(".")
    return bool(above) and all(above) and top not in _PRIVATE_DOMAINS and any(map(str.isalpha, top)) and "]" not in top


def label(said: str, param: str) -> str:
    """A DNS label: the name of a namespace or a queue. InvalidRequest otherwise."""
    if not _LABEL.fullmatch(said):
        raise InvalidRequest(
            f"'{param}' must be a DNS label: up to 63 lower-case letters, digits and hyphens, with no hyphen at either end.",
            param=param,
        )
    return said


def label_key(said: str, param: str) -> str:
    """The key of a node's label, such as `example.org/pool`. InvalidRequest otherwise."""
    prefix = _PREFIX.match(said)
    if not _WORD.fullmatch(said[prefix.end() :] if prefix else said):
        raise InvalidRequest(f"'{param}' must be the key of a Kubernetes label, such as example.org/pool.", param=param)
    return said


def label_value(said: str, param: str) -> str:
    """The value of a node's label; may be empty. InvalidRequest otherwise."""
    if said and not _WORD.fullmatch(said):
        raise InvalidRequest(f"'{param}' must be the value of a Kubernetes label: up to 63 characters.", param=param)
    return said
