"""Graders: values that other programs compute, formulas that run nothing, and what is refused with its reason."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmariner.fine_tuning.graders import similarity as module
from llmariner.fine_tuning.graders.definition import InvalidGrader, read_grader
from llmariner.fine_tuning.graders.formula import Formula, InvalidFormula
from llmariner.fine_tuning.graders.grades import ModelFailed, Question, grade
from llmariner.fine_tuning.graders.similarity import METRICS, similarity
from llmariner.fine_tuning.graders.templates import MAX_TEXT

SAT, IS = "the cat sat on the mat", "the cat is on the mat"
MADRID, SPAIN = "Arrr! The capital be Madrid.", "The capital of Spain be Madrid, matey."
SEVEN, EIGHT = "one two three four five six seven", "one two three five four six seven eight"
# By rapidfuzz 3 (ratio), sacrebleu 2 (sentences, effective order), nltk 3 (GLEU; METEOR of equal words), rouge-score 0.1.
KNOWN = [
    ("fuzzy_match", SAT, IS, 0.930233),
    ("bleu", SAT, IS, 0.379918),
    ("gleu", SAT, IS, 0.5),
    ("meteor", SAT, IS, 0.806667),
    ("rouge_1", SAT, IS, 0.833333),
    ("rouge_2", SAT, IS, 0.6),
    ("rouge_3", SAT, IS, 0.25),
    ("rouge_4", SAT, IS, 0.0),
    ("rouge_l", SAT, IS, 0.833333),
    ("fuzzy_match", MADRID, SPAIN, 0.666667),
    ("bleu", MADRID, SPAIN, 0.147596),
    ("gleu", MADRID, SPAIN, 0.233333),
    ("meteor", MADRID, SPAIN, 0.506818),
    ("rouge_2", MADRID, SPAIN, 0.4),
    ("bleu", "the the the the", "the cat the dog", 0.189959),
    ("meteor", "the the the the", "the cat the dog", 0.25),
    ("fuzzy_match", SEVEN, EIGHT, 0.777778),
    ("bleu", SEVEN, EIGHT, 0.289858),
    ("gleu", SEVEN, EIGHT, 0.423077),
    ("meteor", SEVEN, EIGHT, 0.80341),
    ("rouge_3", SEVEN, EIGHT, 0.181818),
    ("rouge_l", SEVEN, EIGHT, 0.8),
]


@pytest.mark.parametrize(("metric", "said", "wanted", "value"), KNOWN)
def test_similarities_are_those_of_the_usual_programs(metric: str, said: str, wanted: str, value: float) -> None:
    assert similarity(metric, said, wanted) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_any_two_texts_have_a_similarity_from_0_to_1(metric: str) -> None:
    texts = ["", " ", "a", "A", "!", "é ß 東京", "one two three four five", "\0\ud800", "x" * 300]
    for said in texts:
        for wanted in texts:
            assert 0 <= similarity(metric, said, wanted) <= 1 + 1e-12
    assert similarity(metric, "one two three four five six", "one two three four five six") == pytest.approx(
        1, abs=0.01
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("2^-1", 0.5),
        ("(a + b) / 2", 0.75),
        ("min(a, b, 0.1) + max(a, b)", 1.1),
        ("abs(-a) + floor(1.9) + ceil(0.1) + exp(0) + sqrt(4) + log(1)", 5.5),
        ("a - b - 1", -1.5),
        ("1e3 * .5", 500),
    ],
)
def test_a_formula_is_arithmetic(text: str, value: float) -> None:
    assert Formula(text).value({"a": 0.5, "b": 1.0}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "1 +", "(1", "1 2", "a.b", "__import__('os')", "a[0]", "lambda: 1", "max(1)", "sqrt(1, 2)", "pow(2, 3)"),
        *("1" + "+1" * 500, "(" * 500, "-" * 100 + "1", "2 ** 3", "a if b else 1", "a == b", '"text"', "\u0661+1"),
    ],
)
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormula):
        Formula(text)


@pytest.mark.parametrize(
    "text",
    [
        "1 / (a - a)",
        "9^9^9^9",
        "log(0)",
        "sqrt(-1)",
        "exp(1000)",
        "(-8)^0.5",
        "floor(exp(1e3))",
        "exp(700)",
        "-exp(700)",
    ],
)
def test_a_formula_without_a_value_ends_at_once(text: str) -> None:
    with pytest.raises(InvalidFormula):
        Formula(text).value({"a": 0.5})


def nested() -> Any:
    value: Any = "Lima"
    for _ in range(100_000):
        value = [value]
    return value


def check(operation: str, reference: str = "{{ item.answer }}", **fields: Any) -> dict[str, Any]:
    said = {"input": "{{sample.output_text}}", "reference": reference, "operation": operation}
    return {"type": "string_check", "name": "check", **said, **fields}


def nobody(question: Question) -> str:
    raise AssertionError(question)


def reward(document: dict[str, Any], text: str, **item: Any) -> float:
    found = grade(read_grader(document), item, text, nobody)
    assert not found.errors
    return found.reward


def test_a_string_check_compares() -> None:
    assert [reward(check("eq"), text, answer="Lima") for text in ("Lima", "lima", "In Lima.")] == [1, 0, 0]
    assert [reward(check("ne"), text, answer="Lima") for text in ("Lima", "lima")] == [0, 1]
    assert [reward(check("like"), text, answer="Lima") for text in ("In Lima.", "in lima")] == [1, 0]
    assert reward(check("ilike"), "in lima", answer="LIMA") == 1
    assert reward(check("eq", "{{ item.a.b[1] }}"), "7", a={"b": [0, 7]}) == 1
    assert reward(check("eq", input="{{ sample.output_json.city }}"), '{"city": "Lima"}', answer="Lima") == 1


def test_a_value_of_a_line_is_no_template() -> None:
    assert reward(check("eq"), "x", answer="{{ sample.output_text }}") == 0


def test_an_answer_that_a_template_cannot_read_has_no_reward() -> None:
    document = check("ne", input="{{ sample.output_json.city }}")
    for text, error in (("no JSON", "sample_parse_error"), ("{}", "invalid_variable_error")):
        found = grade(read_grader(document), {"answer": "Lima"}, text, nobody)
        assert (found.reward, list(found.errors)) == (0, [error])
    found = grade(read_grader(check("ne")), {"answer": "x" * (MAX_TEXT + 1)}, "y", nobody)
    assert list(found.errors) == ["invalid_variable_error"]


def test_a_template_without_an_end_is_refused_in_one_pass() -> None:
    began = time.process_time()
    with pytest.raises(InvalidGrader, match="no '}}'"):
        read_grader(check("eq", "{{" * 32_000))
    assert time.process_time() - began < 2, "a search from each '{{' to the end takes half a minute"


def test_a_value_that_is_nested_too_deeply_is_named() -> None:
    found = grade(read_grader(check("eq")), {"answer": nested()}, "x", nobody)
    assert list(found.errors) == ["invalid_variable_error"]


def test_texts_of_many_different_characters_take_little_memory() -> None:
    said = "".join(map(chr, range(0x10000, 0x10000 + 20_000)))
    tracemalloc.start()
    found = similarity("fuzzy_match", said, said[::-1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == pytest.approx(1 / 20_000)
    assert peak < 12_000_000, "and not the square of their number in bits"


def test_the_bits_of_a_character_are_made_once_for_a_text_of_some_alphabets() -> None:
    said, made = "".join(chr(0x4E00 + number % 300) for number in range(3000)), list[str]()

    def note(_frame: object, event: str, called: Any) -> None:
        if event == "c_call":
            made.append(called.__name__)

    sys.setprofile(note)
    try:
        found = similarity("fuzzy_match", said, said)
    finally:
        sys.setprofile(None)
    assert (found, made.count("from_bytes")) == (1.0, 300)


def judge(**fields: Any) -> dict[str, Any]:
    said = {"model": "judge", "input": [{"role": "user", "content": "Rate {{ sample.output_text }}"}]}
    return {"type": "score_model", "name": "judge", **said, **fields}


@pytest.mark.parametrize(
    ("answer", "value", "error"),
    [
        ('{"result": 0.75}', 0.75, None),
        ('{"result": 7}', 2.0, None),
        ("-3", -1.0, None),
        ('{"result": true}', 0, "model_grader_parse_error"),
        ('{"result": NaN}', 0, "model_grader_parse_error"),
        ('{"score": 1}', 0, "model_grader_parse_error"),
        ("[" * 9999, 0, "model_grader_parse_error"),
        ("9" * 5000, 0, "model_grader_parse_error"),
        ("9" * 400, 2.0, None),
        ('{"result": Infinity}', 0, "model_grader_parse_error"),
        ("good", 0, "model_grader_parse_error"),
    ],
)
def test_a_score_is_a_number_in_its_range_whatever_the_model_says(answer: str, value: float, error: str | None) -> None:
    found = grade(read_grader(judge(range=[-1, 2])), {}, "x", lambda _: answer)
    assert (found.reward, next(iter(found.errors), None)) == (value, error)


def test_a_judging_model_gets_the_rendered_messages_and_the_form_of_its_answer() -> None:
    asked: list[Question] = []

    def ask(question: Question) -> str:
        asked.append(question)
        return '{"result": 1}'

    sampling = {"temperature": 0, "seed": 3, "max_completions_tokens": 9}
    assert grade(read_grader(judge(sampling_params=sampling)), {}, "Arrr!", ask).reward == 1
    body = asked[0].body
    assert body["messages"] == [{"role": "user", "content": "Rate Arrr!"}]
    assert (body["temperature"], body["seed"], body["max_completion_tokens"]) == (0, 3, 9)
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["result"]


@pytest.mark.parametrize(("answer", "value"), [('{"label": "good"}', 1), ('"bad"', 0)])
def test_a_label_passes_or_not(answer: str, value: float) -> None:
    document = judge(type="label_model", labels=["good", "bad"], passing_labels=["good"])
    assert grade(read_grader(document), {}, "x", lambda _: answer).reward == value
    assert grade(read_grader(document), {}, "x", lambda _: '{"label": ["good"]}').errors


def test_a_multi_grader_calculates_and_fails_as_its_parts_do() -> None:
    parts = {"exact": check("eq"), "judge": judge()}
    document = {"type": "multi", "name": "both", "graders": parts, "calculate_output": "0.5 * exact + 0.5 * judge"}
    found = grade(read_grader(document), {"answer": "Lima"}, "Lima", lambda _: "0.5")
    assert (found.reward, dict(found.parts)) == (0.75, {"exact": 1, "judge": 0.5})
    assert read_grader(document).models == {"judge"}

    def fail(_: Question) -> str:
        raise ModelFailed("model_grader_server_error", "gone")

    failed = grade(read_grader(document), {"answer": "Lima"}, "Lima", fail)
    assert (failed.reward, list(failed.errors)) == (0, ["model_grader_server_error"])
    divided = grade(
        read_grader({**document, "calculate_output": "1 / (judge - 0.5)"}), {"answer": ""}, "", lambda _: "0.5"
    )
    assert list(divided.errors) == ["formula_parse_error"]


@pytest.mark.parametrize(
    ("document", "param"),
    [
        (None, "grader"),
        ([], "grader"),
        ({}, "grader.type"),
        ({"type": ["multi"]}, "grader.type"),
        ({"type": "python", "name": "x", "source": "1"}, "grader.type"),
        ({"type": "string_check"}, "grader.name"),
        (check("is"), "grader.operation"),
        (check("eq", "{{ item.answer"), "grader.reference"),
        (check("eq", "{{ item }}"), "grader.reference"),
        (check("eq", "{{ answer }}"), "grader.reference"),
        (check("eq", "{{ item.__class__.x() }}"), "grader.reference"),
        (check("eq", "{{ sample.output_tools }}"), "grader.reference"),
        (check("eq", "x" * 70_000), "grader.reference"),
        (check("eq", 7), "grader.reference"),  # type: ignore[arg-type]
        (check("eq", other=1), "grader.other"),
        ({**check("eq"), "type": "text_similarity"}, "grader.operation"),
        (judge(model=""), "grader.model"),
        (judge(input=[]), "grader.input"),
        (judge(input=[{"role": "tool", "content": "x"}]), "grader.input[0].role"),
        (judge(input=[{"role": "user", "content": {"type": "input_image"}}]), "grader.input[0].content"),
        (judge(range=[1, 0]), "grader.range"),
        (judge(range=[0, float("inf")]), "grader.range"),
        (judge(range=[0, 10**400]), "grader.range"),
        (judge(sampling_params={"temperature": -1}), "grader.sampling_params.temperature"),
        (judge(sampling_params={"max_completions_tokens": 10**6}), "grader.sampling_params.max_completions_tokens"),
        (judge(sampling_params={"reasoning_effort": "high"}), "grader.sampling_params.reasoning_effort"),
        (judge(type="label_model", labels=["a"], passing_labels=["b"]), "grader.passing_labels"),
        (judge(type="label_model", labels=["a", "a"], passing_labels=["a"]), "grader.labels"),
        ({"type": "multi", "name": "m", "graders": {}, "calculate_output": "1"}, "grader.graders"),
        ({"type": "multi", "name": "m", "graders": {"a b": check("eq")}, "calculate_output": "1"}, "grader.graders"),
        (
            {"type": "multi", "name": "m", "graders": {"a": check("eq")}, "calculate_output": "b"},
            "grader.calculate_output",
        ),
        (
            {"type": "multi", "name": "m", "graders": {"a": {"type": "multi", "name": "n"}}, "calculate_output": "a"},
            "grader.graders.a.type",
        ),
        (judge(input=[{"role": "user", "content": "x" * 60_000}] * 2), "grader"),
        (judge(input=[{"role": "user", "content": "{{item.a}}" * 33}] * 2), "grader"),
        ({"type": nested()}, "grader"),
    ],
)
def test_a_grader_that_is_not_read_names_its_field(document: Any, param: str) -> None:
    with pytest.raises(InvalidGrader) as caught:
        read_grader(document)
    assert caught.value.param == param


def test_cosine_is_refused_by_its_name() -> None:
    document = {**check("eq"), "type": "text_similarity", "evaluation_metric": "cosine"}
    del document["operation"]
    with pytest.raises(InvalidGrader, match="'cosine' is not available"):
        read_grader(document)


@pytest.mark.parametrize("metric", ["fuzzy_match", "rouge_l"])
def test_graders_of_one_answer_compare_no_more_than_one_pair_of_the_longest_texts(metric: str) -> None:
    """Ten pairs of these texts take 18 seconds."""
    text = "".join(chr(0x4E00 + at % 4000) for at in range(MAX_TEXT))
    part = {"type": "text_similarity", "input": "{{ sample.output_text }}", "reference": "{{ item.text }}"}
    parts = {f"p{at}": {**part, "name": "p", "evaluation_metric": metric} for at in range(10)}
    grader = {"type": "multi", "name": "m", "graders": parts, "calculate_output": " + ".join(parts)}
    began = time.process_time()
    found = grade(read_grader(grader), {"text": text[::-1]}, text, nobody)
    assert time.process_time() - began < 1
    assert (found.reward, list(found.errors)) == (0, ["invalid_variable_error"])
    assert "together 100000000000, and 10000000000 at most" in found.errors["invalid_variable_error"]
    shorter = text[: MAX_TEXT // 20]
    assert grade(read_grader(grader), {"text": shorter}, shorter, nobody).reward == pytest.approx(10)
    linear = {name: {**each, "evaluation_metric": "bleu"} for name, each in parts.items()}
    assert grade(read_grader({**grader, "graders": linear}), {"text": text}, text, nobody).errors == {}


def test_long_texts_are_compared_one_pair_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a server's thread waits for one of these threads, and not for dozens."""
    running, most = Counter[str](), list[int]()
    compare = module._subsequence_length

    def counted(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
        running["now"] += 1
        most.append(running["now"])
        length = compare(first, second)
        running["now"] -= 1
        return length

    monkeypatch.setattr(module, "_subsequence_length", counted)
    text = "ab" * 5_000
    assert len(text) ** 2 == module._LONG
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: similarity("fuzzy_match", text, text[::-1]), range(8))) == {0.9999}
    assert (len(most), max(most)) == (8, 1)
