"""Templates of graders: `{{ item.field }}` of a line of the file, `{{ sample.output_text }}` of the model's answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

__all__ = ["MAX_TEXT", "InvalidTemplate", "check_template", "render"]

MAX_TEXT = 100_000
"""Characters of a rendered template: a line of a file may have more, and graders compare texts."""
_PATH = re.compile(r"(item|sample)((?:\.[A-Za-z_][A-Za-z0-9_-]*|\[\d{1,4}\])+)")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[(\d{1,4})\]")
_MAX_TEMPLATE = 65_536
_MAX_PLACES = 64
_TEMPLATES_KEPT = 64
"""Each is read once for all lines of a file, and has 64 KiB at most."""

Place = tuple[str, str, tuple[str | int, ...]]


class InvalidTemplate(ValueError):
    """A template that can't be read, or names what is not there; the message says which."""


def check_template(template: str) -> int:
    """The number of places that a template has. Raises InvalidTemplate for one that no line and no answer can fill."""
    if len(template) > _MAX_TEMPLATE:
        raise InvalidTemplate(f"a template has {_MAX_TEMPLATE} characters at most")
    return sum(not isinstance(part, str) for part in _parts(template))


def render(template: str, item: Mapping[str, Any], sample: Mapping[str, Any] | None) -> str:
    """The text. `sample` None: what the answer fills in is left empty. Raises InvalidTemplate for what is missing."""
    texts, length = [], 0
    for part in _parts(template):
        text = part if isinstance(part, str) else _value(part, item, sample)
        length += len(text)
        if length > MAX_TEXT:  # at once: a line may have megabytes, and a template many places for it
            raise InvalidTemplate(f"the grader's text has more than {MAX_TEXT} characters")
        texts.append(text)
    return "".join(texts)


def _value(place: Place, item: Mapping[str, Any], sample: Mapping[str, Any] | None) -> str:
    said, root, steps = place
    if root == "sample" and sample is None:
        return ""
    found: Any = item if root == "item" else sample
    for step in steps:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            raise InvalidTemplate(f"'{said[:128]}' of the grader is not there") from None
    try:
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    except RecursionError:
        raise InvalidTemplate(f"'{said[:128]}' of the grader is nested too deeply") from None


@lru_cache(_TEMPLATES_KEPT)
def _parts(template: str) -> tuple[str | Place, ...]:
    """Literal texts and places in their order, in one pass: a regular expression would search on from each '{{'."""
    parts: list[str | Place] = []
    at = places = 0
    while (start := template.find("{{", at)) >= 0:
        end = template.find("}}", start + 2)
        if end < 0:
            raise InvalidTemplate("a '{{' has no '}}' after it")
        places += 1
        if places > _MAX_PLACES:
            raise InvalidTemplate(f"a template has {_MAX_PLACES} places at most")
        parts += (template[at:start], _place(template[start + 2 : end].strip()))
        at = end + 2
    return (*parts, template[at:])


def _place(said: str) -> Place:
    """What a place says, where it reads, `item` or `sample`, and the way from there."""
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
    return said, matched[1], tuple(steps)
