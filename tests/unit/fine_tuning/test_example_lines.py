"""Lines of training files: each fault is named by its field; what OpenAI's documentation shows is accepted."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from llmariner.fine_tuning.example_lines import check_line
from llmariner.fine_tuning.graders.definition import read_grader
from llmariner.fine_tuning.graders.held_out_lines import question_of
from llmariner.fine_tuning.hyperparameters import Method

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
USER = {"role": "user", "content": "Hello"}
CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "Hi.", "weight": 0},
        {"role": "user", "content": "Weather in Paris?", "name": "ann"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
        {"role": "assistant", "content": "18 degrees."},
    ],
    "tools": TOOLS,
    "parallel_tool_calls": False,
}
PREFERENCE: dict[str, Any] = {
    "input": {"messages": [{"role": "user", "content": "Hello"}], "tools": TOOLS, "parallel_tool_calls": True},
    "preferred_output": [{"role": "assistant", "content": "Hi."}],
    "non_preferred_output": [{"role": "assistant", "content": "What?"}],
}


def with_change(example: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one field set, or without it where the value is `...`."""
    changed = copy.deepcopy(example)
    place: Any = changed
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return changed


def test_examples_of_the_documentation_are_accepted() -> None:
    assert check_line(Method.SUPERVISED)(CONVERSATION) is None
    assert check_line(Method.DPO)(PREFERENCE) is None


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("messages", [], "'messages' must be a list"),
        ("messages", "Hello", "'messages' must be a list"),
        ("messages", ..., "'messages' is missing"),
        ("messages.0", "Hello", "'messages[0].role'"),
        ("messages.0.role", "bot", "'messages[0].role'"),
        ("messages.0.role", ["user"], "'messages[0].role'"),
        ("messages.0.role", "function", "'messages[0].role'"),
        ("messages.0.content", None, "'messages[0].content'"),
        ("messages.1.content", [], "'messages[1].content'"),
        ("messages.1.content.0", {"type": "image_url", "image_url": {"url": "x"}}, "'messages[1].content[0]'"),
        ("messages.1.mood", "good", "'messages[1].mood' is no field"),
        ("messages.1.weight", 1, "'messages[1].weight' is no field"),
        ("messages.2.weight", 2, "'messages[2].weight' must be 0 or 1"),
        ("messages.2.weight", True, "'messages[2].weight' must be 0 or 1"),
        ("messages.2.weight", "1", "'messages[2].weight' must be 0 or 1"),
        ("messages.2.refusal", "No.", "'messages[2].refusal'"),
        ("messages.2.content", None, "needs 'content' or 'tool_calls'"),
        ("messages.3.name", 1, "'messages[3].name'"),
        ("messages.4.tool_calls", [], "needs 'content' or 'tool_calls'"),
        ("messages.4.tool_calls", "call", "must be a list with at least one call"),
        ("messages.4.tool_calls.0", "call", "'messages[4].tool_calls[0]' must be an object"),
        ("messages.4.tool_calls.0.id", ..., "'messages[4].tool_calls[0].id'"),
        ("messages.4.tool_calls.0.id", ["call_1"], "'messages[4].tool_calls[0].id'"),
        ("messages.4.tool_calls.0.function", None, "tool_calls[0].function' must be an object"),
        ("messages.4.tool_calls.0.function.name", "weathr", "must be a function of the example's 'tools'"),
        ("messages.4.tool_calls.0.function.name", ["weather"], "must be a function of the example's 'tools'"),
        ("messages.4.tool_calls.0.function.arguments", {"city": "Paris"}, "must be a text with a JSON object"),
        ("messages.4.tool_calls.0.function.arguments", "[1]", "must be a text with a JSON object"),
        ("messages.4.tool_calls.0.function.arguments", "{", "must be a text with a JSON object"),
        ("messages.4.tool_calls.0.function.arguments", "[" * 100_000, "must be a text with a JSON object"),
        ("messages.5.tool_call_id", "call_2", "'messages[5].tool_call_id'"),
        ("messages.5.tool_call_id", ["call_1"], "'messages[5].tool_call_id'"),
        ("messages", [USER, {"role": "assistant", "content": "Hi.", "weight": 0}], "every answer has the weight 0"),
        ("messages.6", {"role": "user", "content": "Hello"}, "the last message must be the assistant's"),
        ("tools", "weather", "'tools' must be a list"),
        ("tools.0", {"type": "web_search"}, "'tools[0]'"),
        ("tools.0.function.name", "a b", "'tools[0].function.name'"),
        ("tools.0.function.parameters", "object", "'tools[0].function.parameters'"),
        ("tools", [*TOOLS, *TOOLS], "'tools[1].function.name' stands before"),
        ("tools", ..., "must be a function of the example's 'tools'"),
        ("parallel_tool_calls", "no", "'parallel_tool_calls'"),
        ("functions", [], "'functions' is no field"),
        ("preferred_output", [], "it is a preference"),
    ],
)
def test_a_fault_of_a_conversation_is_named(path: str, value: Any, said: str) -> None:
    cause = check_line(Method.SUPERVISED)(with_change(CONVERSATION, path, value))
    assert cause is not None
    assert said in cause


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("input", ..., "'input' is missing"),
        ("preferred_output", ..., "'preferred_output' is missing"),
        ("input", [], "'input' must be an object"),
        ("input.messages", ..., "'input.messages' must be a list"),
        ("input.messages", [{"role": "assistant", "content": "Hi."}], "must not be the assistant's"),
        ("input.mood", 1, "'input.mood' is no field"),
        ("mood", 1, "'mood' is no field"),
        ("preferred_output", [], "'preferred_output' must be a list with one message"),
        ("preferred_output", [{"role": "user", "content": "Hi."}], "must be the assistant's"),
        ("non_preferred_output", [{"role": "assistant", "content": "Hi."}], "both outputs say the same"),
        ("messages", [], "it is a conversation"),
    ],
)
def test_a_fault_of_a_preference_is_named(path: str, value: Any, said: str) -> None:
    cause = check_line(Method.DPO)(with_change(PREFERENCE, path, value))
    assert cause is not None
    assert said in cause


def test_many_functions_take_a_time_that_grows_with_their_number() -> None:
    class Name(str):
        """A name that counts how often it is compared."""

        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Name.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    tools = [{"type": "function", "function": {"name": Name(f"f{number}")}} for number in range(1000)]
    assert check_line(Method.SUPERVISED)({**CONVERSATION, "tools": [*TOOLS, *tools]}) is None
    assert Name.compared < 5000


@pytest.mark.parametrize("value", ["2 + 2", None, ["2"], {"messages": []}, {"messages": "2"}, PREFERENCE["input"]])
def test_a_line_of_reinforcement_has_fields_of_any_name_for_the_grader_of_a_gate(value: Any) -> None:
    document = {"type": "string_check", "name": "exact", "operation": "eq"}
    grader = read_grader({**document, "input": "{{ sample.output_text }}", "reference": "{{ item.preferred_output }}"})
    line = {"messages": [USER], "input": value, "preferred_output": "Hi."}
    assert check_line(Method.REINFORCEMENT, grader, grader)(line) is None
    assert question_of(line) == ([USER], line)
