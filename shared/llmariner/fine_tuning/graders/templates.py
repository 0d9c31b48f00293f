"""Templates of graders: `{{ item.field }}` of a line of the file, `{{ sample.output_text }}` of the model's answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["MAX_TEXT", "InvalidTemplate", "check_template", "render"]

MAX_TEXT = 100_000
"""Characters of a rendered template: a line of a file may have more, and graders compare texts."""
_PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH = re.compile(r"(item|sample)((?:\.[A-Za-z_][A-Za-z0-9_-]*|\[\d{1,4}\])+)")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[(\d{1,4})\]")
_MAX_TEMPLATE = 65_536
_MAX_PLACES = 64


class InvalidTemplate(ValueError):
    """A template that can't be read, or names what is not there; the message says which."""


def check_template(template: str) -> None:
    """Raises InvalidTemplate for a template that no line and no answer can fill."""
    if len(template) > _MAX_TEMPLATE:
        raise InvalidTemplate(f"a template has {_MAX_TEMPLATE} characters at most")
    places = _PLACE.findall(template)
    if len(places) > _MAX_PLACES:
        raise InvalidTemplate(f"a template has {_MAX_PLACES} places at most")
    for place in places:
        _steps(place)
    if "{{" in _PLACE.sub("", template):
        raise InvalidTemplate("a '{{' has no '}}' after it")


def render(template: str, item: Mapping[str, Any], sample: Mapping[str, Any] | None) -> str:
    """The text. `sample` None: what the answer fills in is left empty. Raises InvalidTemplate for what is missing."""

    def value(match: re.Match[str]) -> str:
        root, steps = _steps(match[1])
        if root == "sample" and sample is None:
            return ""
        found: Any = item if root == "item" else sample
        for step in steps:
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                raise InvalidTemplate(f"'{match[1].strip()[:128]}' of the grader is not there") from None
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    text = _PLACE.sub(value, template)
    if len(text) > MAX_TEXT:
        raise InvalidTemplate(f"the grader's text has {len(text)} characters, and may have {MAX_TEXT}")
    return text


def _steps(place: str) -> tuple[str, list[str | int]]:
    """Where a place reads: `item` or `sample`, and the way from there."""
    said = place.strip()
    matched = _PATH.fullmatch(said)
    if matched is None:
        raise InvalidTemplate(
            f"'{{{{{said[:128]}}}}}' is none of '{{{{item.FIELD}}}}', '{{{{sample.output_text}}}}' and "
            "'{{sample.output_json.FIELD}}'"
        )
    steps: list[str | int] = [name or int(index) for name, index in _STEP.findall(matched[2])]
    if matched[1] == "sample" and steps[0] not in ("output_text", "output_json"):
        raise InvalidTemplate(
            f"'sample.{steps[0]}' is not available: answers here are texts, 'sample.output_text' and 'sample.output_json'"
        )
    return matched[1], steps
