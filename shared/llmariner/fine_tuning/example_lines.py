"""Checks of lines of training files: what OpenAI's forms demand, and what a text model can be trained on.

They look at the form alone. Whether the model's chat template renders an example, and how many tokens it has, is found out
by the job's own process (`training_program.examples`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from llmariner.fine_tuning.graders.grades import Grader
from llmariner.fine_tuning.graders.held_out_lines import question_of
from llmariner.fine_tuning.graders.templates import InvalidTemplate, render
from llmariner.fine_tuning.hyperparameters import Method

__all__ = ["check_line"]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONVERSATION_FIELDS = frozenset({"messages", "tools", "parallel_tool_calls"})
_PREFERENCE_FIELDS = frozenset({"input", "preferred_output", "non_preferred_output"})
_MESSAGE_FIELDS = {
    "assistant": frozenset({"role", "content", "name", "tool_calls", "weight", "refusal"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}
_PLAIN_FIELDS = frozenset({"role", "content", "name"})


class _Fault(Exception):
    """What is wrong with a line."""


def check_line(
    method: Method, grader: Grader | None = None, gate: Grader | None = None
) -> Callable[[dict[str, Any]], str | None]:
    """A check that returns what is wrong with a line, None where nothing is.

    `grader`: of `reinforcement`. `gate`: that of the lines' gate, which reads further fields of them.
    """
    check = _check_conversation if method is Method.SUPERVISED else _check_preference
    if grader is not None:
        check = partial(_check_prompt, grader=grader)
    if gate is not None:
        check = partial(_check_question, check=check, gate=gate)

    def cause(line: dict[str, Any]) -> str | None:
        try:
            check(line)
        except _Fault as fault:
            return str(fault)
        return None

    return cause


def _check_question(line: dict[str, Any], check: Callable[[dict[str, Any]], None], gate: Grader) -> None:
    """Check a line whose question is answered and graded, besides what its method demands of it."""
    known = _CONVERSATION_FIELDS | _PREFERENCE_FIELDS
    check({name: value for name, value in line.items() if name in known} if check in _OF_METHODS else line)
    given = line if "messages" in line else line["input"]
    if given.get("tools") is not None:
        raise _Fault("'tools' is not available where a gate grades answers: they are plain texts")
    messages, item = question_of(line)
    if not messages or messages[-1]["role"] == "assistant":
        raise _Fault("a gate grades answers to the line, which has no question before its answer")
    _check_templates(gate, item)


def _check_templates(grader: Grader, item: Mapping[str, Any]) -> None:
    for template in grader.templates():
        try:
            render(template, item, None)
        except InvalidTemplate as error:
            raise _Fault(str(error)) from error


def _check_conversation(line: dict[str, Any]) -> None:
    if _PREFERENCE_FIELDS & line.keys():
        raise _Fault("it is a preference: send 'method': {'type': 'dpo'}, or conversations with 'messages'")
    if "messages" not in line:
        raise _Fault("'messages' is missing: an example of the method 'supervised' is a conversation")
    _refuse_unknown(line, _CONVERSATION_FIELDS, "")
    functions = _function_names(line)
    messages = line["messages"]
    _check_messages(messages, "messages", functions)
    if messages[-1]["role"] != "assistant":
        raise _Fault("the last message must be the assistant's: it is what the model learns")
    if all(each.get("weight", 1) == 0 for each in messages if each["role"] == "assistant"):
        raise _Fault("every answer has the weight 0, so there is nothing to learn")


def _check_prompt(line: dict[str, Any], grader: Grader) -> None:
    """Further fields are what the grader's templates read."""
    if "messages" not in line:
        raise _Fault(
            "'messages' is missing: an example of the method 'reinforcement' is a conversation without its answer"
        )
    for name in ("tools", "response_format"):
        if line.get(name) is not None:
            raise _Fault(f"'{name}' is not available for the method 'reinforcement': its answers are plain texts")
    messages = line["messages"]
    _check_messages(messages, "messages", frozenset())
    if messages[-1]["role"] == "assistant":
        raise _Fault("the last message must not be the assistant's: its answers are made and graded by the job")
    _check_templates(grader, line)


def _check_preference(line: dict[str, Any]) -> None:
    if "messages" in line:
        raise _Fault("it is a conversation: send 'method': {'type': 'supervised'}, or preferences with 'input'")
    for name in ("input", "preferred_output", "non_preferred_output"):
        if name not in line:
            raise _Fault(f"'{name}' is missing: an example of the method 'dpo' has an input and two outputs")
    _refuse_unknown(line, _PREFERENCE_FIELDS, "")
    given = line["input"]
    if not isinstance(given, dict):
        raise _Fault("'input' must be an object with 'messages'")
    _refuse_unknown(given, _CONVERSATION_FIELDS, "input.")
    functions = _function_names(given, "input.")
    _check_messages(given.get("messages"), "input.messages", functions)
    if given["messages"][-1]["role"] == "assistant":
        raise _Fault("the last message of 'input.messages' must not be the assistant's: the outputs are the answers")
    for name in ("preferred_output", "non_preferred_output"):
        output = line[name]
        if not isinstance(output, list) or len(output) != 1:
            raise _Fault(f"'{name}' must be a list with one message")
        _check_messages(output, name, functions)
        if output[0]["role"] != "assistant":
            raise _Fault(f"the message of '{name}' must be the assistant's")
    if _said(line["preferred_output"][0]) == _said(line["non_preferred_output"][0]):
        raise _Fault("both outputs say the same, so neither can be preferred")


_OF_METHODS = (_check_conversation, _check_preference)
"""Those that refuse fields which they do not know."""


def _check_messages(messages: Any, where: str, functions: frozenset[str]) -> None:
    if not isinstance(messages, list) or not messages:
        raise _Fault(f"'{where}' must be a list with at least one message")
    calls: set[str] = set()
    for index, message in enumerate(messages):
        place = f"{where}[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise _Fault(f"'{place}.role' must be one of {', '.join(_ROLES)}")
        _refuse_unknown(message, _MESSAGE_FIELDS.get(role, _PLAIN_FIELDS), f"{place}.")
        if "name" in message and not isinstance(message["name"], str):
            raise _Fault(f"'{place}.name' must be a text")
        if role == "assistant":
            calls |= _check_answer(message, place, functions)
            continue
        _check_content(message.get("content"), f"{place}.content")
        if role == "tool" and str(message.get("tool_call_id")) not in calls:
            raise _Fault(f"'{place}.tool_call_id' must be the id of a call of an earlier message")


def _check_answer(message: dict[str, Any], place: str, functions: frozenset[str]) -> set[str]:
    """Check an assistant's message; returns the ids of its calls."""
    if message.get("weight", 1) not in (0, 1) or isinstance(message.get("weight"), bool):
        raise _Fault(f"'{place}.weight' must be 0 or 1")
    if message.get("refusal") is not None:
        raise _Fault(f"'{place}.refusal' is no part of what the model writes: put the words into 'content'")
    calls = message.get("tool_calls")
    if message.get("content") is not None:
        _check_content(message["content"], f"{place}.content")
    elif not calls:
        raise _Fault(f"'{place}' needs 'content' or 'tool_calls'")
    if calls is None:
        return set()
    if not isinstance(calls, list) or not calls:
        raise _Fault(f"'{place}.tool_calls' must be a list with at least one call")
    return {_check_call(call, f"{place}.tool_calls[{number}]", functions) for number, call in enumerate(calls)}


def _check_call(call: Any, place: str, functions: frozenset[str]) -> str:
    """Check a call of a function; returns its id."""
    if not isinstance(call, dict) or call.get("type", "function") != "function":
        raise _Fault(f"'{place}' must be an object with 'type': 'function'")
    _refuse_unknown(call, frozenset({"id", "type", "function"}), f"{place}.")
    if not isinstance(call.get("id"), str) or not call["id"]:
        raise _Fault(f"'{place}.id' must be a text")
    function = call.get("function")
    if not isinstance(function, dict):
        raise _Fault(f"'{place}.function' must be an object with 'name' and 'arguments'")
    _refuse_unknown(function, frozenset({"name", "arguments"}), f"{place}.function.")
    if str(function.get("name")) not in functions:
        raise _Fault(f"'{place}.function.name' must be a function of the example's 'tools'")
    arguments = function.get("arguments")
    try:
        decoded = json.loads(arguments) if isinstance(arguments, str) else None
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        raise _Fault(f"'{place}.function.arguments' must be a text with a JSON object")
    return str(call["id"])


def _check_content(content: Any, place: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise _Fault(f"'{place}' must be a text, or a list of text parts")
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _Fault(
                f"'{place}[{number}]' must be a part of the type 'text': models here are trained on text alone"
            )


def _function_names(line: dict[str, Any], where: str = "") -> frozenset[str]:
    """The names of the functions that an example offers."""
    if not isinstance(line.get("parallel_tool_calls", True), bool):
        raise _Fault(f"'{where}parallel_tool_calls' must be true or false")
    tools = line.get("tools")
    if tools is None:
        return frozenset()
    if not isinstance(tools, list):
        raise _Fault(f"'{where}tools' must be a list")
    names: set[str] = set()
    for number, tool in enumerate(tools):
        place = f"{where}tools[{number}]"
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict):
            raise _Fault(f"'{place}' must be an object with 'type': 'function' and 'function'")
        name = function.get("name")
        if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
            raise _Fault(f"'{place}.function.name' must be 1 to 64 letters, digits, '_' or '-'")
        if name in names:
            raise _Fault(f"'{place}.function.name' stands before: each function has a name of its own")
        if not isinstance(function.get("parameters", {}), dict):
            raise _Fault(f"'{place}.function.parameters' must be a JSON schema")
        names.add(name)
    return frozenset(names)


def _refuse_unknown(document: dict[str, Any], known: Iterable[str], where: str) -> None:
    for name in document:
        if name not in known:
            raise _Fault(f"'{where}{name[:64]}' is no field of a training example")


def _said(message: dict[str, Any]) -> tuple[Any, Any]:
    return message.get("content"), message.get("tool_calls")
