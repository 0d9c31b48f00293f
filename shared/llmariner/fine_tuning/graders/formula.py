"""Arithmetic of `calculate_output`: numbers, names of graders, + - * / ^, parentheses, a few functions. Nothing is run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

__all__ = ["Formula", "InvalidFormula"]

_TOKEN = re.compile(
    r"\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?|\.\d+)|([A-Za-z_][A-Za-z0-9_]*)|([-+*/^(),]))", re.ASCII
)
_MAX_CHARACTERS = 2000
_MAX_DEPTH, _MAX_TOKENS = 50, 200
_MAX_VALUE = 1e300
"""As of the range of a grader by a model: sums of rewards stay finite, such as those of which means are made."""
_FUNCTIONS: dict[str, tuple[Callable[..., float], int | None]] = {
    "min": (min, None),
    "max": (max, None),
    "abs": (abs, 1),
    "floor": (math.floor, 1),
    "ceil": (math.ceil, 1),
    "exp": (math.exp, 1),
    "sqrt": (math.sqrt, 1),
    "log": (math.log, 1),
}
"""OpenAI's, with the number of their arguments; None: two or more."""

Term = Callable[[Mapping[str, float]], float]


class InvalidFormula(ValueError):
    """A formula that can't be read, or has no value; the message says why."""


class Formula:
    """A formula, read once. Raises InvalidFormula. `names`: the graders that it has."""

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_CHARACTERS:
            raise InvalidFormula(f"it has more than {_MAX_CHARACTERS} characters")
        self._tokens = _tokens(text)
        if len(self._tokens) > _MAX_TOKENS:
            raise InvalidFormula(f"it has more than {_MAX_TOKENS} numbers, names and signs")
        self._next = 0
        self._depth = 0
        self.names: set[str] = set()
        self._term = self._sum()
        if self._next < len(self._tokens):
            raise InvalidFormula(f"'{self._tokens[self._next]}' is not expected there")

    def value(self, names: Mapping[str, float]) -> float:
        """The value; InvalidFormula where it is no number below 1e300, such as after a division by zero."""
        try:
            found = float(self._term(names))
        except (ArithmeticError, ValueError, TypeError) as error:
            raise InvalidFormula(f"it has no value: {error}") from error
        if not abs(found) < _MAX_VALUE:
            raise InvalidFormula(f"its value is not from -{_MAX_VALUE:g} to {_MAX_VALUE:g}")
        return found

    def _sum(self) -> Term:
        term = self._product()
        while (sign := self._take("+", "-")) is not None:
            term = _both(term, self._product(), sign)
        return term

    def _product(self) -> Term:
        term = self._signed()
        while (sign := self._take("*", "/")) is not None:
            term = _both(term, self._signed(), sign)
        return term

    def _signed(self) -> Term:
        """A sign binds less than a power: -2^2 is -4."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise InvalidFormula(f"it is nested more than {_MAX_DEPTH} times")
        sign = self._take("+", "-")
        term = self._power() if sign is None else self._signed()
        self._depth -= 1
        return (lambda names: -term(names)) if sign == "-" else term

    def _power(self) -> Term:
        base = self._atom()
        if self._take("^") is None:
            return base
        return _both(base, self._signed(), "^")  # from the right: 2^3^2 is 2^9

    def _atom(self) -> Term:
        token = self._tokens[self._next] if self._next < len(self._tokens) else ""
        self._next += 1
        if token == "(":
            term = self._sum()
            self._expect(")")
            return term
        if token[:1].isdigit() or token[:1] == ".":
            number = float(token)
            return lambda _: number
        if not token or not (token[0].isalpha() or token[0] == "_"):
            raise InvalidFormula(f"a number or a name is expected, not '{token}'" if token else "it ends too early")
        return self._call(token) if self._take("(") is not None else self._named(token)

    def _named(self, name: str) -> Term:
        self.names.add(name)
        return lambda names: names[name]

    def _call(self, name: str) -> Term:
        if name not in _FUNCTIONS:
            raise InvalidFormula(f"'{name[:64]}' is none of the functions {', '.join(_FUNCTIONS)}")
        function, count = _FUNCTIONS[name]
        arguments = [self._sum()]
        while self._take(",") is not None:
            arguments.append(self._sum())
        self._expect(")")
        if len(arguments) != count and (count is not None or len(arguments) < 2):
            raise InvalidFormula(f"'{name}' has {count or '2 or more'} arguments, not {len(arguments)}")
        return lambda names: function(*(each(names) for each in arguments))

    def _take(self, *tokens: str) -> str | None:
        """The next token if it is one of these."""
        if self._next < len(self._tokens) and self._tokens[self._next] in tokens:
            self._next += 1
            return self._tokens[self._next - 1]
        return None

    def _expect(self, token: str) -> None:
        if self._take(token) is None:
            raise InvalidFormula(f"a '{token}' is missing")


def _tokens(text: str) -> list[str]:
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        matched = _TOKEN.match(text, at)
        if matched is None:
            raise InvalidFormula(f"'{text[at:].strip()[:20]}' can't be read")
        found.append(matched[1] or matched[2] or matched[3])
        at = matched.end()
    return found


def _both(left: Term, right: Term, sign: str) -> Term:
    operations: dict[str, Callable[[float, float], float]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "^": math.pow,  # of floats: an integer power could take all memory
    }
    operation = operations[sign]
    return lambda names: operation(left(names), right(names))
