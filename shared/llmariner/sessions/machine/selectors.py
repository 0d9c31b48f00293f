"""Selectors of labels and fields, as far as they say that a value is, or is not, another one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmariner.errors import InvalidRequest

__all__ = ["matches"]

_TERM = re.compile(r"\s*(!?)\s*([A-Za-z0-9][A-Za-z0-9_./-]{0,252})\s*(?:(=|==|!=)\s*([A-Za-z0-9_.:-]{0,253})\s*)?")
_MAX_LENGTH = 2048


def matches(selector: str, values: Mapping[str, str], param: str) -> bool:
    """Whether values match: terms such as `a=b`, `a!=b`, `a`, `!a`, with commas between them.

    InvalidRequest for terms of other kinds. `param`: the parameter, for its message.
    """
    if len(selector) > _MAX_LENGTH:
        raise InvalidRequest(f"'{param}' may have {_MAX_LENGTH} characters.", param=param)
    terms = [_TERM.fullmatch(each) for each in selector.split(",")] if selector.strip() else []
    read = [term.groups() for term in terms if term is not None]
    if len(read) < len(terms) or any(absent and operator for absent, _, operator, _ in read):
        raise InvalidRequest(
            f"'{param}' may have terms such as 'name=value', 'name!=value', 'name' and '!name' here, and commas between.",
            param=param,
        )
    return all(_holds(bool(absent), values.get(name), operator, wanted) for absent, name, operator, wanted in read)


def _holds(absent: bool, value: str | None, operator: str | None, wanted: str | None) -> bool:
    if operator is None:
        return (value is None) is absent
    return (value == wanted) is (operator != "!=")
