"""Asks the platform what to do, and does it: counts the tokens of the files, or trains."""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmariner.fine_tuning.graders.definition import read_grader
from llmariner.fine_tuning.training_program.batch_result import Objective
from llmariner.fine_tuning.training_program.examples import Encoder, Example, InvalidExample, read_examples
from llmariner.fine_tuning.training_program.local_workers import run_workers
from llmariner.fine_tuning.training_program.plan import Plan
from llmariner.fine_tuning.training_program.platform import Platform, Stopped
from llmariner.fine_tuning.training_program.quantized_model import hide_quantization, refuse_quantized
from llmariner.fine_tuning.training_program.worker_group import WorkerGroup, WorkerLost

if TYPE_CHECKING:
    from llmariner.fine_tuning.training_program.graded_answers import HeldOutGrades

__all__ = ["main"]

_FAILED, _STOPPED, _WORKER_LOST = 1, 3, 243
"""Exit codes: Python's own of an error, of a job that the platform wants no more, of a worker that has lost another.

The last one is that of a pod which was ended from outside, so that a cluster has all workers begin again.
"""


def main() -> int:
    """See the module. Settings: `LLMARINER_TRAINING_URL`, `LLMARINER_TRAINING_TOKEN`, `LLMARINER_TRAINING_WORKERS`."""
    workers = int(os.environ.get("LLMARINER_TRAINING_WORKERS", "1"))
    if workers > 1 and "WORLD_SIZE" not in os.environ:
        return run_workers(workers, final=(_FAILED, _STOPPED))
    platform = Platform(os.environ["LLMARINER_TRAINING_URL"], os.environ.pop("LLMARINER_TRAINING_TOKEN"))
    try:
        return _work(platform, Path(os.environ.get("LLMARINER_TRAINING_FOLDER", "work")))
    except Stopped as error:
        print(f"The platform wants no more of this job: {error}", file=sys.stderr)
        return _STOPPED
    except WorkerLost as error:
        print(f"Another worker of the job ended: {error}", file=sys.stderr)
        return _WORKER_LOST
    except Exception as error:
        message = f"The training failed: {type(error).__name__}: {str(error)[:800]}"
        platform.report({"type": "failed", "message": message}, now=True)
        raise


def _work(platform: Platform, work: Path) -> int:
    group = WorkerGroup.join()
    # The first worker's plan is everybody's: a state that is newer than it may be there for one that asks later.
    first = {"plan": asdict(platform.plan()), "process": platform.process} if group.is_first else None
    shared = group.share_document(first)
    plan, platform.process = Plan.from_json(shared["plan"]), shared["process"]
    refuse_quantized(Path(plan.model_folder))
    if plan.training_type != "qlora":
        hide_quantization()
    work = work / f"worker-{group.rank}"
    work.mkdir(parents=True, exist_ok=True)
    encoder = _encoder(plan)
    found = _read_files(platform, plan, group, work, encoder)
    if found is None:
        return 0
    if plan.stage == "check":
        weights = sum(each.stat().st_size for each in Path(plan.model_folder).glob("*.safetensors"))
        platform.report({"type": "checked", **found, "weight_bytes": weights}, now=True)
        return 0
    # Torch takes seconds to import, and the check does without.
    from llmariner.fine_tuning.training_program.trainer import Trainer

    objective = _objective(plan, platform, encoder, group)
    gate = _gate(plan, platform, encoder, group, found.get("questions", []))
    training, validation = found["training_file"], found.get("validation_file", [])
    Trainer(plan, platform, objective, training, validation, work, group, gate).run()
    group.leave()
    return 0


def _objective(plan: Plan, platform: Platform, encoder: Encoder, group: WorkerGroup) -> Objective:
    """What the plan's method learns."""
    if plan.grader is None:
        from llmariner.fine_tuning.training_program.losses import LossObjective

        return LossObjective(plan.method, plan.beta, plan.seed, group)
    from llmariner.fine_tuning.training_program.graded_answers import GradedAnswers
    from llmariner.fine_tuning.training_program.reinforcement import RewardObjective

    grader, longest = read_grader(plan.grader), plan.max_completion_tokens
    return RewardObjective(plan, GradedAnswers(grader, encoder, platform, group, longest), group)


def _gate(
    plan: Plan, platform: Platform, encoder: Encoder, group: WorkerGroup, questions: Sequence[Example]
) -> HeldOutGrades | None:
    """What a gate compares, if it compares grades."""
    if plan.gate_grader is None:
        return None
    from llmariner.fine_tuning.training_program.graded_answers import GradedAnswers, HeldOutGrades

    grader, longest = read_grader(plan.gate_grader), plan.gate_completion_tokens
    return HeldOutGrades(GradedAnswers(grader, encoder, platform, group, longest), questions, group)


def _read_files(
    platform: Platform, plan: Plan, group: WorkerGroup, work: Path, encoder: Encoder
) -> dict[str, Any] | None:
    """What the plan needs of each file, and the questions of a gate; None where one is invalid, which is reported."""
    urls = {"training_file": plan.training_file, "validation_file": plan.validation_file}
    files = {name: platform.fetch(name, url, work / f"{name}.jsonl") for name, url in urls.items() if url is not None}
    take: Callable[[Iterable[Example]], Any] = _counts if plan.stage == "check" else list
    reads = [(name, name, encoder.encode) for name in files]
    if plan.gate_grader is not None:
        reads.append(
            ("questions", "validation_file", partial(encoder.question, answer_tokens=plan.gate_completion_tokens))
        )
    found: dict[str, Any] = {}
    for what, name, encode in reads:
        try:
            with files[name].open("rb") as lines:
                found[what] = take(read_examples(lines, encode))
        except InvalidExample as error:
            if group.is_first:
                record = {"type": "invalid", "file": name, "line": error.line, "message": str(error)}
                platform.report(record, now=True)
            return None
    return found


def _encoder(plan: Plan) -> Encoder:
    from transformers import AutoTokenizer

    folder = Path(plan.model_folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    longest = json.loads((folder / "config.json").read_text()).get("max_position_embeddings") or plan.context_tokens
    answer_tokens = 0 if plan.grader is None else plan.max_completion_tokens
    return Encoder(tokenizer, _end_tokens(folder, tokenizer), min(longest, plan.context_tokens), answer_tokens)


def _end_tokens(folder: Path, tokenizer: Any) -> Iterable[int]:
    """The tokens at which an engine stops by itself: vLLM reads the same two places."""
    found = {tokenizer.eos_token_id}
    if (folder / "generation_config.json").is_file():
        said = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
        found |= set(said if isinstance(said, list) else [said])
    return found - {None}


def _counts(examples: Iterable[Example]) -> dict[str, int]:
    sizes = array("I", (example.token_count for example in examples))
    return {"examples": len(sizes), "tokens": sum(sizes), "longest": max(sizes, default=0)}


if __name__ == "__main__":
    sys.exit(main())
