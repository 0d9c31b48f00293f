"""Turn a GGUF file into a Hugging Face folder that vLLM serves. Runs in the engine environment: FILE TEMPLATE TARGET.

TEMPLATE is the chat template that the model is to have, in place of its own.

transformers dequantises a GGUF but refuses to save the result ("quantized with GGUF"), so the weights move into a fresh
model of the same configuration. Progress goes to standard output, one JSON object a line. The target appears whole or
not at all: it is written under a temporary name and renamed.
"""

import json
import os
import shutil
import sys
from pathlib import Path


def say(done: int, total: int, what: str) -> None:
    print(json.dumps({"done": done, "total": total, "what": what}), flush=True)


# Of an answer for which the caller says nothing: a small model may repeat itself to the end of its context.
_LONGEST_ANSWER = 256


def convert(source: Path, template: Path, target: Path) -> None:
    say(0, 4, "importing torch and transformers")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    say(1, 4, f"reading {source.name}")
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = quantised.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)

    say(2, 4, "copying the weights")
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()

    say(3, 4, "writing the folder")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.generation_config.max_new_tokens = _LONGEST_ANSWER
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.chat_template = template.read_text()
    tokenizer.save_pretrained(part)
    for path in part.iterdir():  # the weights are written for their owner alone; an engine may be another user
        path.chmod(0o644)
    os.replace(part, target)
    say(4, 4, "done")


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))
