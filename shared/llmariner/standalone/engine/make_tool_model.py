"""Make a model that calls functions of SmolLM2-135M-Instruct: BASE PROGRAM FILES TARGET. Runs in the engine environment.

BASE: the folder of the model. PROGRAM: the archive of the training program. FILES: a folder with `examples.jsonl` and
`chat_template.jinja`. TARGET: the folder to make, which appears whole or not at all; a run that was interrupted continues
after its last epoch. Progress goes to standard output, one JSON object a line.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

EPOCHS, BATCH, RATE, SEED = 3, 4, 8e-4, 7


class Recorder:
    """The platform of a training that no job is for: reports are progress, and what is uploaded stays in the folder."""

    def __init__(self, work: Path, steps: int) -> None:
        self.pause_requested = False
        self._work = work
        self._steps = steps

    def report(self, record: dict[str, Any], *, now: bool = False) -> None:
        if record["type"] in ("training", "step"):
            say(record["step"], self._steps, "training")

    def upload(self, path: Path, kind: str) -> str:
        kept = self._work / f"{kind}.kept"
        part = kept.with_suffix(".part")
        shutil.copyfile(path, part)
        os.replace(part, kept)
        return str(kept)

    def fetch(self, _name: str, url: str, target: Path) -> Path:
        return Path(shutil.copyfile(url, target))


def say(done: int, total: int, what: str) -> None:
    print(json.dumps({"done": done, "total": total, "what": what}), flush=True)


def make(base: Path, files: Path, target: Path) -> None:
    say(0, 1, "importing torch and transformers")
    from transformers import AutoTokenizer

    from llmariner.fine_tuning.training_program.examples import Encoder, read_examples
    from llmariner.fine_tuning.training_program.losses import LossObjective
    from llmariner.fine_tuning.training_program.plan import Plan
    from llmariner.fine_tuning.training_program.trainer import Trainer
    from llmariner.fine_tuning.training_program.worker_group import WorkerGroup

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    tokenizer.chat_template = (files / "chat_template.jinja").read_text("utf-8")
    with (files / "examples.jsonl").open("rb") as lines:
        examples = list(read_examples(lines, Encoder(tokenizer, [tokenizer.eos_token_id], 4096).encode))
    work = target.with_name(target.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    state = work / "state.kept"
    plan = Plan(
        stage="train",
        model_folder=str(base),
        training_file="",
        seed=SEED,
        n_epochs=EPOCHS,
        batch_size=BATCH,
        learning_rate=RATE,
        checkpoint=str(state) if state.is_file() else None,
    )
    recorder: Any = Recorder(work, -(-len(examples) // BATCH) * EPOCHS)
    group = WorkerGroup()
    objective = LossObjective(plan.method, plan.beta, plan.seed, group)
    Trainer(plan, recorder, objective, examples, [], work, group).run()
    save(base, tokenizer, work / "adapter.kept", target)
    shutil.rmtree(work)


def save(base: Path, tokenizer: Any, adapter: Path, target: Path) -> None:
    """Write the model with the adapter merged into its weights."""
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    set_peft_model_state_dict(tuned, load_file(adapter))
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    tuned.merge_and_unload().to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    for path in part.iterdir():  # the weights are written for their owner alone; an engine may be another user
        path.chmod(0o644)
    os.replace(part, target)


if __name__ == "__main__":
    # Engines answer meanwhile.
    os.nice(10)
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // 2))
    sys.path.insert(0, sys.argv[2])
    make(Path(sys.argv[1]), Path(sys.argv[3]), Path(sys.argv[4]))
