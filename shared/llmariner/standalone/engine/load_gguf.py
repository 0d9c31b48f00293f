"""Write a GGUF file of a Llama model as a Hugging Face folder, with its own chat template: FILE TARGET.

Runs in the engine environment, as `convert_gguf.py` does for the packaged models, whose folders are named by a digest of
that script. Progress goes to standard output, one JSON object a line.
"""

import json
import os
import shutil
import sys
from pathlib import Path


def say(done: int, total: int, what: str) -> None:
    print(json.dumps({"done": done, "total": total, "what": what}), flush=True)


def convert(source: Path, target: Path) -> None:
    say(0, 4, "importing torch and transformers")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    say(1, 4, "reading the GGUF file")
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    packed = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = packed.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)

    say(2, 4, "copying the weights")
    # A fresh model, since transformers refuses to save one that it read from a GGUF file.
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(packed.state_dict())
    model.tie_weights()

    say(3, 4, "writing the folder")
    part = target.with_name(target.name + ".converting.part")
    shutil.rmtree(part, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    for path in part.iterdir():  # the weights are written for their owner alone; an engine may be another user
        path.chmod(0o644)
    os.replace(part, target)
    say(4, 4, "done")


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))
