"""Validation and normalization of titles, e-mail addresses and Kubernetes labels. All raise InvalidRequest."""

from __future__ import annotations

import re
import unicodedata

from llmariner.errors import InvalidRequest
from llmariner.platform.identity import email_addresses

__all__ = [
    "has_public_domain",
    "looks_like_id",
    "skeleton",
    "validate_dns_label",
    "validate_email",
    "validate_label_key",
    "validate_label_value",
    "validate_selectable_title",
    "validate_title",
]

_MAX_TITLE_LENGTH = 256
# As `identifiers.new_id` makes them.
_ID = re.compile(r"[a-z_]+_[0-9a-z]{22}")
# Top-level domains that no one can own (RFC 6761, 6762, 8375, 7686, and ICANN's 'internal').
_PRIVATE_DOMAINS = frozenset(
    {"arpa", "corp", "example", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain", "localhost"}
    | {"mail", "onion", "private", "test"}
)
# A DNS label (RFC 1123), and the parts of a Kubernetes label.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/")
_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def validate_title(value: str, param: str = "title", *, max_length: int = _MAX_TITLE_LENGTH) -> str:
    """A title or name without surrounding whitespace, in Unicode's form NFC.

    InvalidRequest if it is empty, longer than `max_length` or not printable: control characters, characters without width or
    that change the direction of text.
    """
    stripped = unicodedata.normalize("NFC", value.strip())
    if not 1 <= len(stripped) <= max_length or not stripped.isprintable():
        raise InvalidRequest(f"'{param}' must be 1 to {max_length} printable characters.", param=param)
    return stripped


def validate_selectable_title(value: str, param: str = "title", *, max_length: int = _MAX_TITLE_LENGTH) -> str:
    """The title of a resource that requests select by id or title. InvalidRequest also if it looks like an id."""
    found = validate_title(value, param, max_length=max_length)
    if looks_like_id(found):
        raise InvalidRequest(f"'{param}' must not look like an id: choose another one than '{found}'.", param=param)
    return found


def looks_like_id(value: str) -> bool:
    """Whether the value has the form of an id of `identifiers.new_id`."""
    return _ID.fullmatch(value.lower()) is not None


def skeleton(value: str) -> str:
    """A title without its invisible differences: titles with equal skeletons are confusable and count as equal."""
    return email_addresses.INVISIBLE_CHARACTERS.sub("", unicodedata.normalize("NFKC", value))


def validate_email(value: str, param: str = "email") -> str:
    """An e-mail address in lower case, which identifies a person. InvalidRequest if it is not an address."""
    found = email_addresses.normalize_email(value)
    if found is None:
        raise InvalidRequest(
            f"'{param}' must be an e-mail address of a person, such as ann@example.org, in Unicode's form NFKC.",
            param=param,
        )
    return found


def has_public_domain(address: str) -> bool:
    """Whether the domain can belong to an owner on the internet.

    A bare host, an IP address and a name that is reserved for private networks cannot.
    """
    *above, top = address.rpartition("@")[2].rstrip(".").split(".")
    return bool(above) and all(above) and top not in _PRIVATE_DOMAINS and any(map(str.isalpha, top)) and "]" not in top


def validate_dns_label(value: str, param: str) -> str:
    """A DNS label (RFC 1123): the name of a namespace or a queue."""
    if not _LABEL.fullmatch(value):
        raise InvalidRequest(
            f"'{param}' must be a DNS label: up to 63 lower-case letters, digits and hyphens, with no hyphen at either end.",
            param=param,
        )
    return value


def validate_label_key(value: str, param: str) -> str:
    """The key of a node's label, such as `example.org/pool`."""
    prefix = _PREFIX.match(value)
    if not _WORD.fullmatch(value[prefix.end() :] if prefix else value):
        raise InvalidRequest(f"'{param}' must be the key of a Kubernetes label, such as example.org/pool.", param=param)
    return value


def validate_label_value(value: str, param: str) -> str:
    """The value of a node's label; may be empty."""
    if value and not _WORD.fullmatch(value):
        raise InvalidRequest(f"'{param}' must be the value of a Kubernetes label: up to 63 characters.", param=param)
    return value
