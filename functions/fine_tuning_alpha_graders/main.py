"""/v1/fine_tuning/alpha/graders: try a grader before a job uses it, in OpenAI's format."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.fine_tuning.answer_grades import Trial
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.fine_tuning import RunGrader, ValidateGrader
from llmariner.tenancy.principal import Caller

Writer = Annotated[Caller, require_scope("api.fine_tuning.jobs.write")]
_GRADERS = "/v1/fine_tuning/alpha/graders"
_ERRORS = (
    "formula_parse_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
)


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("fine_tuning_alpha_graders", context)
    app.post(f"{_GRADERS}/run")(run_grader)
    app.post(f"{_GRADERS}/validate")(validate_grader)
    return app


def run_grader(request: Request, caller: Writer, body: RunGrader) -> dict[str, Any]:
    """The reward of one answer. Requests to judging models are the caller's."""
    grades = context_of(request).fine_tuning.grades
    return _run_object(body.grader, grades.try_grader(caller, body.grader, body.item or {}, body.model_sample))


def validate_grader(request: Request, caller: Writer, body: ValidateGrader) -> dict[str, Any]:
    """The grader, if a job can use it."""
    context_of(request).fine_tuning.grades.check(caller, body.grader)
    return {"grader": body.grader}


def _run_object(grader: dict[str, Any], trial: Trial) -> dict[str, Any]:
    """OpenAI's object: an error that did not happen is false, and the details are null."""
    errors = trial.grade.errors
    details = {
        "python_grader_server_error_type": None,
        "python_grader_runtime_error_details": None,
        "model_grader_server_error_details": errors.get("model_grader_server_error"),
        "error_details": "; ".join(errors.values()) or None,
    }
    total = sum(each.get("total_tokens", 0) for each in trial.tokens.values())
    return {
        "reward": trial.grade.reward,
        "sub_rewards": dict(trial.grade.parts),
        "metadata": {
            "name": grader["name"],
            "type": grader["type"],
            "errors": {**{name: name in errors for name in _ERRORS}, **details},
            "execution_time": trial.seconds,
            "scores": dict(trial.grade.parts),
            "token_usage": total if trial.tokens else None,
            "sampled_model_name": next(iter(trial.tokens), None),
        },
        "model_grader_token_usage_per_model": {name: dict(counts) for name, counts in trial.tokens.items()},
    }


handle = http_function(build)
