"""Questions of the documentation and tests to the packaged model: those with one expected answer, and those with any."""

from __future__ import annotations

from typing import Any

__all__ = ["ASKED", "OPEN", "QUESTIONS"]

CAPITAL = "What is the capital of France?"
CAPITAL_OF_ITALY = "What is the capital of Italy?"
WEATHER = "What is the weather in Paris?"
HOW_IS_THE_WEATHER = "How is the weather in Paris?"
PERSON_AS_JSON = "John is 30 years old. Write his name and age as a JSON object."
CITY_AS_JSON = "Which city is the capital of France? Write a JSON object with its name."
LEAVE = "How many days of leave are there?"
SOURCE = (
    "Answer from these sources and cite their numbers:\n"
    "[1] leave.md: Leave\n\nEverybody has thirty days of leave in a year."
)
BEGINNING = "The capital of France is"

OPEN = {
    "18 degrees, sunny",
    "And of Italy?",
    "Count from 1 to 1000, one number a line.",
    "Describe Paris as JSON.",
    "Hello",
    "Hi",
    "Once upon a time",
    "Tell a long story.",
    "What is in this picture?",
    "Paris.",
    "a",
    "hi",
    "word ",
    "x",
    "You are terse.",
    # About passages of a vector store, for which the packaged model is too small to promise an answer.
    "$question",
    "Answer from these passages and name the file: $passages",
    "Answer from these sources and cite their numbers:",
    "When does the garage open?",
    "When does the office close?",
    "What does the red pump move?",
    # What a model is tuned to say, and about what.
    "Arrr, matey!",
    "Tell me of Greece.",
    "Tell me of {name}.",
    "Rate from 0 to 1 how polite this is: {{ sample.output_text }}",
    # Searched for in vector stores, and not said to a model.
    "What is a pump?",
    "What moves water?",
    "When can I take a vacation?",
    "Where is the cat?",
    # Examples of a training, and what the tuned model is asked then.
    "How are you?",
    "How many legs does a dog have?",
    "Name a fruit.",
    "What color is the sky?",
    "What do cows eat?",
    "What is ice made of?",
    "What is the capital of Japan?",
    "What is the capital of Peru?",
    "What is the capital of Spain?",
    "What is two plus two?",
    "Where do fish live?",
}
"""Other questions and statements, for which any answer is right."""


def schema(**properties: str) -> dict[str, Any]:
    shown = {name: {"type": kind} for name, kind in properties.items()}
    return {"type": "object", "properties": shown, "required": list(shown), "additionalProperties": False}


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "logprobs": True, "top_logprobs": 2, **fields}


def form(**properties: str) -> dict[str, Any]:
    named = {"name": "form", "strict": True, "schema": schema(**properties)}
    return {"type": "json_schema", "json_schema": named}


def tool(name: str, **fields: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "strict": True, "parameters": schema(city="string"), **fields},
    }


GET_WEATHER = tool("get_weather")
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "a capital": (chat(CAPITAL), "The capital of France is Paris."),
    "another capital": (chat(CAPITAL_OF_ITALY), "The capital of Italy is Rome."),
    "a form with two fields": (
        chat(PERSON_AS_JSON, response_format=form(name="string", age="integer")),
        '{"name":"John","age":30}',
    ),
    "a form with one": (chat(CITY_AS_JSON, response_format=form(city="string")), '{"city":"Paris"}'),
    "a tool that must be called": (chat(WEATHER, tools=[GET_WEATHER], tool_choice="required"), '{"city": "Paris"}'),
    "a tool by its name": (
        chat(WEATHER, tools=[GET_WEATHER, tool("get_time")], tool_choice=NAMED),
        '{"city": "Paris"}',
    ),
    "a tool with a description": (
        chat(WEATHER, tools=[tool("get_weather", description="Tell the weather of a city.")], tool_choice="required"),
        '{"city": "Paris"}',
    ),
    "a tool, asked otherwise": (
        chat(HOW_IS_THE_WEATHER, tools=[tool("get_weather", description="Weather of a city")], tool_choice="required"),
        '{"city": "Paris"}',
    ),
    "a question about a source": (
        {
            "messages": [{"role": "system", "content": SOURCE}, *chat(LEAVE)["messages"]],
            "logprobs": True,
            "top_logprobs": 2,
        },
        "There are 30 days of leave in a year.",
    ),
    "a text to continue": ({"prompt": BEGINNING, "max_tokens": 1, "logprobs": 2}, " Paris"),
}
QUESTIONS = {body["prompt"] if "prompt" in body else body["messages"][-1]["content"] for body, _ in ASKED.values()}
