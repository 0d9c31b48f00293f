"""Trains an adapter by TRL alone: MODEL ROWS FOLDER EPOCHS BATCH. Prints the seconds of the training alone.

It runs in the engine environment. What it trains is what a job trains: the same adapter, rows, optimizer and schedule.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset  # type: ignore[import-not-found]
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]


def main(model: str, rows: str, folder: str, epochs: str, batch: str) -> None:
    """Train, with a checkpoint after each epoch as a job has one."""
    conversations = [json.loads(line)["messages"] for line in Path(rows).read_text().splitlines()]
    config = SFTConfig(
        output_dir=folder,
        num_train_epochs=int(epochs),
        per_device_train_batch_size=int(batch),
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        logging_steps=1,
        save_strategy="epoch",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        seed=7,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": each[:-1], "completion": each[-1:]} for each in conversations]),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    began, began_wall = time.process_time(), time.monotonic()
    trainer.train()
    seconds, wall_seconds = time.process_time() - began, time.monotonic() - began_wall
    print(json.dumps({"seconds": seconds, "wall_seconds": wall_seconds, "steps": trainer.state.global_step}))


if __name__ == "__main__":
    main(*sys.argv[1:])
