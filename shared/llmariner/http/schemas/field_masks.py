"""Field masks of updates in LLMariner's own API: the fields of a resource that a PATCH changes (google.protobuf.FieldMask).

A mask is a list of paths separated by commas. Paths are in snake_case or, as protobuf's JSON mapping writes them, in
lowerCamelCase, with or without the resource's name as a prefix.
"""

from __future__ import annotations

import re
from typing import TypeVar

from llmariner.errors import InvalidRequest
from llmariner.http.schemas.bodies import Body

__all__ = ["merge_masks", "parse_mask", "unwrap_resource"]

Fields = TypeVar("Fields", bound=Body)

_UPPER = re.compile(r"(?<=[a-z0-9])[A-Z]")


def merge_masks(in_query: str, in_body: str) -> str:
    """The mask of a request, from its query or its body. Raises InvalidRequest for two masks that differ."""
    if in_query and in_body and in_query != in_body:
        raise InvalidRequest(
            "'update_mask' is given in the query and in the body, and they differ: send one.", param="update_mask"
        )
    return in_query or in_body


def parse_mask(mask: str, resource: str) -> tuple[str, ...]:
    """The paths of a mask in snake_case, without the prefix `resource`. Raises InvalidRequest for a mask without paths."""
    stripped = [path.strip().removeprefix(f"{resource}.") for path in mask.split(",") if path.strip()]
    if mask and not stripped:
        raise InvalidRequest(
            "'update_mask' names no field: list those that change, or leave it out.", param="update_mask"
        )
    return tuple(_UPPER.sub(lambda letter: f"_{letter[0].lower()}", path) for path in stripped)


def unwrap_resource(body: Fields, wrapped: Fields | None, resource: str) -> Fields:
    """The object that has the resource's fields: the body, or `wrapped`, as LLMariner's clients send it.

    Raises InvalidRequest for a body that has fields in both.
    """
    if wrapped is None:
        return body
    if beside := body.model_fields_set - {resource, "update_mask"}:
        raise InvalidRequest(
            f"'{min(beside)}' stands beside '{resource}': send the {resource}'s fields inside it, or all without it.",
            param=min(beside),
        )
    return wrapped
