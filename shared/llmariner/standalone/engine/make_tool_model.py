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
    """The platform of a training that nobody asked for over the API: reports are progress, and uploads stay in the folder."""

    pause_requested = False

    def __init__(self, work: Path, steps: int) -> None:
        self._work = work
        self._steps = steps

    def report(self, record: dict[str, Any], *, now: bool = False) -> None:
        if "step" in record:
            what = f"training, loss {record['train_loss']:.3f}" if record["type"] == "step" else "training"
            say(record["step"], self._steps, what)

    def upload(self, path: Path, kind: str) -> str:
        kept = self._work / f"{kind}.kept"
        part = kept.with_suffix(".part")
        shutil.copyfile(path, part)
        os.replace(part, kept)
        return str(kept)

    def fetch(self, url: str, target: Path) -> Path:
        return Path(shutil.copyfile(url, target))


def say(done: int, total: int, what: str) -> None:
    print(json.dumps({"done": done, "total": total, "what": what}), flush=True)


def make(base: Path, files: Path, target: Path) -> None:
    say(0, 1, "importing torch and transformers")
    from llmariner.fine_tuning.training_program.examples import Encoder, read_examples
    from llmariner.fine_tuning.training_program.plan import Plan
    from llmariner.fine_tuning.training_program.trainer import Trainer
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    tokenizer.chat_template = (files / "chat_template.jinja").read_text()
    with (files / "examples.jsonl").open("rb") as lines:
        examples = list(read_examples(lines, Encoder(tokenizer, [tokenizer.eos_token_id], 4096)))
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
    Trainer(plan, Recorder(work, -(-len(examples) // BATCH) * EPOCHS), examples, [], work).run()
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
    sys.path.insert(0, sys.argv[2])
    make(Path(sys.argv[1]), Path(sys.argv[3]), Path(sys.argv[4]))
