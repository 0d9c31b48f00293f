"""The tool in a request: OpenAI's `file_search`, or LLMariner's function `rag`, and what of the request it takes up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmariner.errors import InvalidRequest
from llmariner.gateway.requests.fields import RAG, is_file_search

__all__ = ["MAX_STORES", "RESULTS", "FileSearchTool", "take_tool"]

MAX_STORES = 10
RESULTS = "file_search_call.results"
"""The value of `include` that asks for the results of the search."""

_STORE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STORE_NAME = "function.parameters.vector_store_name"
_MAX_NAME_LENGTH = 256
_FIELDS = ("type", "vector_store_ids", "filters", "max_num_results", "ranking_options")
# OpenAI's default of the tool, and LLMariner's of `rag`.
_DEFAULT_RESULTS, _RAG_RESULTS = 20, 10


@dataclass(frozen=True)
class FileSearchTool:
    """A search to make. `param`: the tool's place in the request, for errors.

    `store_ids`: of OpenAI's tool; `store_name`: that of `rag`. `options`: more fields of the search,
    which `POST /v1/vector_stores/search` validates. `include_results`: whether the response has the results.
    """

    param: str
    store_ids: tuple[str, ...]
    store_name: str | None
    options: Mapping[str, Any]
    include_results: bool

    @property
    def store_param(self) -> str:
        """The place in the request that names the stores."""
        return f"{self.param}.{'vector_store_ids' if self.store_name is None else _STORE_NAME}"


def take_tool(fields: Mapping[str, Any]) -> tuple[FileSearchTool | None, dict[str, Any]]:
    """The search that a request with the tool asks for, and its changed members; a member that is removed is None.

    `fields`: of a request that `parse` validated. No search where `tool_choice` forbids it. Other tools stay. InvalidRequest
    for a wrong tool, two of them, or a choice of a tool that is not there.
    """
    tools = fields["tools"]
    ours = [index for index, tool in enumerate(tools) if is_file_search(tool)]
    if len(ours) > 1:
        raise InvalidRequest(
            "A request may have one tool 'file_search' or 'rag': list several stores in its 'vector_store_ids'.",
            param=f"tools[{ours[1]}]",
            code="invalid_value",
        )
    tool, param = tools[ours[0]], f"tools[{ours[0]}]"
    others = [each for index, each in enumerate(tools) if index != ours[0]]
    choice, include = fields.get("tool_choice"), _include(fields.get("include"))
    is_rag = tool["type"] == "function"
    found = _rag(tool, param, include) if is_rag else _file_search(tool, param, include)
    forced = isinstance(choice, dict) and _names(choice, is_rag)
    if isinstance(choice, dict) and not forced and not others:
        raise InvalidRequest(
            "'tool_choice' names a tool that is not in 'tools'.", param="tool_choice", code="invalid_value"
        )
    changes: dict[str, Any] = {"tools": others or None, "include": None}
    if not others:
        changes |= {"tool_choice": None, "parallel_tool_calls": None}
    elif forced:
        changes["tool_choice"] = "none"
    elif choice == "required":
        changes["tool_choice"] = "auto"  # the search is the call that was required
    # A choice of one function is the choice against all other tools.
    is_skipped = choice == "none" or (isinstance(choice, dict) and choice.get("type") == "function" and not forced)
    return (None if is_skipped else found), changes


def _names(choice: Mapping[str, Any], is_rag: bool) -> bool:
    """Whether an object of `tool_choice` names this tool."""
    function = choice.get("function")
    if is_rag and choice.get("type") == "function" and isinstance(function, dict):
        return bool(function.get("name") == RAG)
    return not is_rag and choice.get("type") == "file_search"


def _include(value: Any) -> bool:
    if value is None:
        return False
    if not isinstance(value, list) or any(each != RESULTS for each in value):
        raise InvalidRequest(f"'include' may be a list with '{RESULTS}'.", param="include", code="invalid_value")
    return bool(value)


def _file_search(tool: Mapping[str, Any], param: str, include: bool) -> FileSearchTool:
    for field in tool:
        if field not in _FIELDS:
            shown = field[:80]
            raise InvalidRequest(
                f"'{param}' has no field '{shown}': it has {', '.join(_FIELDS)}.",
                param=f"{param}.{shown}",
                code="unknown_parameter",
            )
    ids = tool.get("vector_store_ids")
    if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_STORES:
        raise InvalidRequest(
            f"'{param}.vector_store_ids' must be a list of 1 to {MAX_STORES} ids of vector stores.",
            param=f"{param}.vector_store_ids",
            code="invalid_value",
        )
    for index, each in enumerate(ids):
        if not isinstance(each, str) or _STORE_ID.fullmatch(each) is None:
            place = f"{param}.vector_store_ids[{index}]"
            raise InvalidRequest(f"'{place}' must be the id of a vector store.", param=place, code="invalid_value")
    given = {field: tool[field] for field in _FIELDS[2:] if tool.get(field) is not None}
    options = {"max_num_results": _DEFAULT_RESULTS, **given}
    return FileSearchTool(param, tuple(dict.fromkeys(ids)), None, options, include)


def _rag(tool: Mapping[str, Any], param: str, include: bool) -> FileSearchTool:
    name = tool["function"]["parameters"]["vector_store_name"]
    if not 1 <= len(name) <= _MAX_NAME_LENGTH or "\0" in name:
        place = f"{param}.{_STORE_NAME}"
        raise InvalidRequest(
            f"'{place}' must be a name of 1 to {_MAX_NAME_LENGTH} characters.", param=place, code="invalid_value"
        )
    return FileSearchTool(param, (), name, {"max_num_results": _RAG_RESULTS}, include)
