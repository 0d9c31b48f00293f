"""`llma fine-tuning jobs`: create, list, get, events, checkpoints, pause, resume, cancel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.pairs import key_and_value
from llmariner.cli.support.resolvers import complete_files
from llmariner.cli.support.session import Session

__all__ = ["cancel", "checkpoints", "create", "events", "get", "list_jobs", "pause", "resume"]

_PAGE = 100
"""The page size limit of the API."""
_JOB_ARGUMENT = click.argument("job", metavar="ID")
_LIMIT = click.option(
    "--limit", metavar="N", type=click.IntRange(min=1), default=100, show_default=True, help="Newest N."
)


@click.command(cls=Command)
@click.option("--model", required=True, help="Base model.")
@click.option(
    "--training-file-id", metavar="ID", required=True, shell_complete=complete_files, help="Uploaded file of examples."
)
@click.option("--validation-file-id", metavar="ID", shell_complete=complete_files, help="File to measure the loss on.")
@click.option("--suffix", help="Part of the new model's name.")
@click.option(
    "--method", type=click.Choice(["supervised", "dpo", "reinforcement"]), default="supervised", show_default=True
)
@click.option(
    "--training-type",
    type=click.Choice(["lora", "qlora", "full"]),
    help="What is trained: an adapter (lora), one for the base model in 4 bits (qlora), or all weights; else lora.",
)
@click.option("--epochs", metavar="N", type=int, help="Epochs; else by the number of examples.")
@click.option("--batch-size", metavar="N", type=int, help="Examples of a step; else by their number.")
@click.option("--learning-rate-multiplier", metavar="X", type=float, help="Multiplier of the base rate; else 1.")
@click.option(
    "--early-stopping-patience",
    metavar="N",
    type=int,
    help="Stop after N epochs without a lower validation loss; the result is the best checkpoint.",
)
@click.option(
    "--beta", metavar="X", type=float, help="Of dpo and reinforcement: how close to remain to the base model."
)
@click.option(
    "--grader",
    metavar="FILE",
    type=click.File("rb"),
    help="Of reinforcement: the grader in JSON, which gives each answer a reward; - reads standard input.",
)
@click.option("--compute-multiplier", metavar="X", type=float, help="Of reinforcement: times 8 answers to each line.")
@click.option("--eval-interval", metavar="N", type=int, help="Of reinforcement: evaluate every N steps, too.")
@click.option("--eval-samples", metavar="N", type=int, help="Of reinforcement: answers to each line then; else 1.")
@click.option("--max-completion-tokens", metavar="N", type=int, help="Of reinforcement: of an answer; else 256.")
@click.option("--metadata", metavar="KEY=VALUE", multiple=True, help="A note about it; repeat for several.")
@click.option("--seed", metavar="N", type=int, help="For the same run again; else a random one.")
@click.option("--gpu", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs.")
@click.option("--workers", metavar="N", type=click.IntRange(min=1), default=1, show_default=True, help="Workers.")
@click.option("--cluster", "cluster_id", metavar="ID", help="The one cluster to run on, of `llma clusters list`.")
@click.option("--alias", metavar="ALIAS", help="Let this alias point at the result.")
@click.option("--gate-max-loss", metavar="X", type=float, help="Only with a validation loss up to X.")
@click.option("--gate-better-than-base", is_flag=True, help="Only with a lower validation loss than the base model's.")
@click.option(
    "--gate-grader",
    metavar="FILE",
    type=click.File("rb"),
    help="Only with a higher mean grade of answers to the validation file than the base model's: the grader in JSON.",
)
@click.option("--gate-margin", metavar="X", type=float, help="By how much it must be higher; else by anything.")
@click.option("--wandb-project", metavar="NAME", help="Send the metrics to this project of Weights & Biases.")
@click.option("--mlflow-experiment", metavar="NAME", help="Send the metrics to this experiment of MLflow.")
@click.option("--run-name", metavar="NAME", help="Name of the run there; else the suffix, or the job's id.")
@pass_session
def create(session: Session, /, **said: Any) -> None:
    """Create a job."""
    document = session.api().post("fine_tuning/jobs", _body(said))
    session.printer.print_message(document, f"Created {document['id']}. Its files are checked first.")


def _body(said: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the request: what was said, and nothing else."""
    numbers = {
        "n_epochs": said["epochs"],
        "batch_size": said["batch_size"],
        "learning_rate_multiplier": said["learning_rate_multiplier"],
        "beta": said["beta"],
        "early_stopping_patience": said["early_stopping_patience"],
        **{
            name: said[name]
            for name in ("compute_multiplier", "eval_interval", "eval_samples", "max_completion_tokens")
        },
    }
    hyperparameters = {name: value for name, value in numbers.items() if value is not None}
    method, settings = said["method"], {"hyperparameters": hyperparameters} if hyperparameters else {}
    if said["grader"] is not None:
        settings["grader"] = _grader(said["grader"], "--grader")
    integrations = [
        {"type": type_, type_: {field: project, **({run_name: said["run_name"]} if said["run_name"] else {})}}
        for type_, field, run_name, project in (
            ("wandb", "project", "name", said["wandb_project"]),
            ("mlflow", "experiment", "run_name", said["mlflow_experiment"]),
        )
        if project is not None
    ]
    if said["run_name"] and not integrations:
        raise click.UsageError("--run-name goes with --wandb-project or --mlflow-experiment.")
    body = {
        "integrations": integrations or None,
        "model": said["model"],
        "training_file": said["training_file_id"],
        "validation_file": said["validation_file_id"],
        "suffix": said["suffix"],
        "seed": said["seed"],
        "method": {"type": method, **({method: settings} if settings else {})},
        "training_type": None if said["training_type"] is None else {"type": said["training_type"]},
        "metadata": dict(key_and_value(pair) for pair in said["metadata"]) or None,
        "resources": _resources(said["gpu"], said["workers"]),
        "promotion": _promotion(said),
        "cluster_id": said["cluster_id"] or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _promotion(said: Mapping[str, Any]) -> dict[str, Any] | None:
    max_loss, margin = said["gate_max_loss"], said["gate_margin"]
    gate: dict[str, Any] = {
        **({} if max_loss is None else {"maximum": max_loss}),
        **({"better_than": "base"} if said["gate_better_than_base"] else {}),
    }
    if gate and said["gate_grader"] is not None:
        raise click.UsageError("--gate-grader goes without --gate-max-loss and --gate-better-than-base.")
    if gate:
        gate["type"] = "validation_loss"
    if said["gate_grader"] is not None:
        gate = {"type": "grader", "grader": _grader(said["gate_grader"], "--gate-grader")}
        gate |= {} if margin is None else {"margin": margin}
    elif margin is not None:
        raise click.UsageError("--gate-margin goes with --gate-grader.")
    if said["alias"] is None and gate:
        raise click.UsageError("--gate-max-loss, --gate-better-than-base and --gate-grader go with --alias.")
    if said["alias"] is None:
        return None
    return {"alias": said["alias"], **({"gate": gate} if gate else {})}


def _grader(file: IO[bytes], option: str) -> Any:
    try:
        return json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{option}: {file.name} is no JSON: {error}.") from error


def _resources(gpus: int, workers: int) -> dict[str, int] | None:
    said = {"gpu_count": gpus, **({"worker_count": workers} if workers > 1 else {})}
    return said if any(said.values()) else None


def _decided(promotion: Mapping[str, Any] | None) -> str | None:
    """What became of a promotion."""
    if not promotion:
        return None
    result = promotion.get("result") or {"status": "not decided yet"}
    reason = f": {result['reason']}" if result.get("reason") else ""
    if not reason and result.get("grade") is not None:
        reason = f": mean grade {_rounded(result['grade'])}, of the base model {_rounded(result.get('base_grade'))}"
    return f"{promotion.get('alias')}: {result.get('status')}{reason}"


@click.command("list", cls=Command)
@_LIMIT
@pass_session
def list_jobs(session: Session, limit: int) -> None:
    """List jobs, newest first."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages("fine_tuning/jobs", max_records=limit, limit=min(limit, _PAGE))
    columns = [
        Column.of("id"),
        Column.of("model"),
        Column("STATUS", _status),
        Column("STEP", _progress),
        Column("CREATED", lambda job: format_timestamp(job.get("created_at"))),
        Column("RESULT", lambda job: job.get("fine_tuned_model") or (job.get("error") or {}).get("message")),
    ]
    empty = "No jobs; `llma fine-tuning jobs create` makes one."
    session.printer.print_records(document, document["data"], columns, empty=empty)


@click.command(cls=Command)
@_JOB_ARGUMENT
@pass_session
def get(session: Session, job: str) -> None:
    """Show a job: state, place in line, estimate, result."""
    from llmariner.cli.support.output import format_dollars, format_timestamp

    document = session.api().get(_path(job))
    queue, error = document.get("queue") or {}, document.get("error") or {}
    estimate, numbers = document.get("estimate") or {}, document.get("hyperparameters") or {}
    left = estimate.get("seconds_left")
    details: dict[str, str | int | None] = {
        "id": document.get("id"),
        "status": document.get("status"),
        "place in line": queue.get("place"),
        "waits because": queue.get("reason"),
        "error": f"{error.get('message')} ({error.get('code')})" if error else None,
        "cluster": document.get("cluster_id") or None,
        "model": document.get("model"),
        "result": document.get("fine_tuned_model"),
        "promotion": _decided(document.get("promotion")),
        "method": (document.get("method") or {}).get("type"),
        "training type": (document.get("training_type") or {}).get("type"),
        "hyperparameters": ", ".join(f"{name} {value}" for name, value in numbers.items()),
        "seed": str(document.get("seed")),
        "step": _progress(document),
        "tokens to train": estimate.get("tokens"),
        "answers to grade": (estimate.get("gate") or {}).get("answers"),
        "estimated cost $": format_dollars(estimate.get("cost_usd") or None),
        "seconds left": None if left is None else round(left),
        "trained tokens": document.get("trained_tokens"),
        "cost $": format_dollars(document.get("cost_usd") or None),
        "training file": document.get("training_file"),
        "validation file": document.get("validation_file"),
        "result files": ", ".join(document.get("result_files") or ()),
        "created": format_timestamp(document.get("created_at")),
        "finished": format_timestamp(document.get("finished_at")),
    }
    session.printer.print_details(document, {name: value for name, value in details.items() if value})


@click.command(cls=Command)
@_JOB_ARGUMENT
@_LIMIT
@pass_session
def events(session: Session, job: str, limit: int) -> None:
    """List what happened in a job, newest first."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages(f"{_path(job)}/events", max_records=limit, limit=min(limit, _PAGE))
    columns = [
        Column("TIME", lambda event: format_timestamp(event.get("created_at"))),
        Column.of("level"),
        Column.of("message"),
        Column("VALIDATION LOSS", lambda event: _rounded((event.get("data") or {}).get("valid_loss"))),
        Column("REWARD", lambda event: _rounded((event.get("data") or {}).get("train_reward_mean"))),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No events.")


@click.command(cls=Command)
@_JOB_ARGUMENT
@_LIMIT
@pass_session
def checkpoints(session: Session, job: str, limit: int) -> None:
    """List the checkpoints of a job, newest first. Each is a model."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages(f"{_path(job)}/checkpoints", max_records=limit, limit=min(limit, _PAGE))
    columns = [
        Column("MODEL", lambda each: each.get("fine_tuned_model_checkpoint")),
        Column("STEP", lambda each: each.get("step_number")),
        Column("CREATED", lambda each: format_timestamp(each.get("created_at"))),
        Column("VALIDATION LOSS", lambda each: _rounded((each.get("metrics") or {}).get("full_valid_loss"))),
        Column("REWARD", lambda each: _rounded((each.get("metrics") or {}).get("full_valid_reward_mean"))),
        Column("GRADE", lambda each: _rounded((each.get("metrics") or {}).get("full_valid_grade_mean"))),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No checkpoints.")


@click.command(cls=Command)
@_JOB_ARGUMENT
@pass_session
def pause(session: Session, job: str) -> None:
    """Pause a job that waits or runs."""
    document = session.api().post(f"{_path(job)}/pause")
    said = f"{job} pauses after its present step." if document.get("pause_requested") else f"{job} is paused."
    session.printer.print_message(document, said)


@click.command(cls=Command)
@_JOB_ARGUMENT
@pass_session
def resume(session: Session, job: str) -> None:
    """Let a paused job continue from its last state."""
    document = session.api().post(f"{_path(job)}/resume")
    session.printer.print_message(document, f"{job} continues: {document.get('status')}.")


@click.command(cls=Command)
@_JOB_ARGUMENT
@pass_session
def cancel(session: Session, job: str) -> None:
    """End a job. Its checkpoints remain."""
    document = session.api().post(f"{_path(job)}/cancel")
    canceled = document.get("status") == "cancelled"
    said = f"{job} has ended." if canceled else f"{job} had ended before: {document.get('status')}."
    session.printer.print_message(document, said)


def _path(job: str) -> str:
    from llmariner.cli.support.api import build_path

    return build_path("fine_tuning", "jobs", job)


def _status(job: Mapping[str, Any]) -> str:
    """Such as `running`, or `queued (2)` with the place in line."""
    place = (job.get("queue") or {}).get("place")
    return f"{job.get('status')} ({place})" if place else str(job.get("status"))


def _progress(job: Mapping[str, Any]) -> str:
    """Such as `12/90`; empty before the number of steps is known."""
    progress = job.get("progress") or {}
    return f"{progress.get('step')}/{progress['total_steps']}" if progress.get("total_steps") else ""


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
