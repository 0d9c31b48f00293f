"""What is known of a model from its own files; `inspection` reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

__all__ = ["ModelTraits", "configured_argument"]


@dataclass(frozen=True)
class ModelTraits:
    """Empty and 0: the files do not say. `revision`: the commit or digest that was fetched. `converted_from`: its format.

    `chat_template`: the file that has it. `tool_parser` and `reasoning_parser` are vLLM's names; `…_origin`: the file from
    which each was chosen, or `default`; empty for models that were looked at by an earlier release.
    """

    architecture: str = ""
    context_length: int = 0
    quantization: str = ""
    revision: str = ""
    converted_from: str = ""
    chat_template: str = ""
    tool_parser: str = ""
    reasoning_parser: str = ""
    tool_parser_origin: str = ""
    reasoning_parser_origin: str = ""

    def to_json(self) -> str:
        """As text for the registry."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelTraits:
        """Parse what `to_json` returned; fields of later releases are ignored. Empty text: nothing is known."""
        value = json.loads(text or "{}")
        return cls(**{field.name: value[field.name] for field in fields(cls) if field.name in value})


def configured_argument(arguments: Sequence[str], flag: str) -> str | None:
    """The value that engine arguments give a flag, as `--flag=value` or `--flag value`; the last one counts."""
    found = None
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            found = value if equals else next(iter(arguments[index + 1 : index + 2]), "")
    return found
