"""Cold starts of every function beside bare frameworks, with a running engine and control plane."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from .children import StartError, free_port, running
from .measures import cold_start
from .measures.cold_start import Question
from .peers import bare, bare_fastapi
from .peers.gateway import CHAT as CHAT_FUNCTION
from .peers.installation import Installation, first_route, functions, install
from .results import Results
from .run import Bounds, engine, say
from .target import CHAT, MESSAGES, MODEL, Site, Target

BARE, FRAMEWORK = "bare uvicorn", "bare FastAPI"
PROGRAMS = {BARE: bare.__file__, FRAMEWORK: bare_fastapi.__file__}
BODY = json.dumps({"model": MODEL, "messages": MESSAGES, "max_tokens": 1}).encode()
# Those with a database take their time.
OTHERS_ROUNDS = 2
JSON = {"content-type": "application/json"}


def question(name: str, installation: Installation) -> Question:
    """A first request: for the chat function a whole answer of the model, for others their first route."""
    headers = {**JSON, **installation.headers}
    if name == CHAT_FUNCTION:
        return Question("POST", CHAT, BODY, headers, must_succeed=True)
    method, path = first_route(name)
    return Question(method, path, None if method == "GET" else b"{}", headers)


def measure_cold_starts(results: Results, folder: Path, bounds: Bounds) -> None:
    """The chat function and the bare server next to each other in every round, then the others."""
    names = sorted(functions(), key=lambda name: (name != CHAT_FUNCTION, name))
    with ExitStack() as stack:
        direct = stack.enter_context(running(engine(), folder))
        things = Question("GET", "/things", must_succeed=True)
        questions = {BARE: Question("POST", CHAT, BODY, JSON), FRAMEWORK: things}
        installation = install(Site(folder, direct.port)) if names else None
        if installation is not None:
            stack.enter_context(running(installation.control(), folder))
            questions |= {name: question(name, installation) for name in names}
        for number in bounds.each():
            say(f"round {number + 1} of {bounds.rounds}: cold starts")
            for name, asked in questions.items():
                if number < OTHERS_ROUNDS or name in (BARE, CHAT_FUNCTION):
                    _once(results, folder, name, installation, asked)


def _once(results: Results, folder: Path, name: str, installation: Installation | None, asked: Question) -> None:
    port = free_port()
    if installation is None or name in PROGRAMS:
        target = Target(name.replace(" ", "-"), [sys.executable, PROGRAMS[name], str(port)], port)
    else:
        target = installation.function(name, port)
    try:
        start = cold_start.measure(target, asked, folder)
    except StartError as reason:
        results.skipped[f"cold start of {name}"] = str(reason)
        return
    results.add("cold_wall_ms", name, start.wall)
    results.add("cold_cpu_ms", name, start.cpu)
