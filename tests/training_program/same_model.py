"""Prints whether a folder is a base model with the weights of a training's state: BASE STATE FOLDER."""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

if __name__ == "__main__":
    base, state, folder = sys.argv[1:]
    tokens = AutoTokenizer.from_pretrained(folder)("What is the capital of Peru?", return_tensors="pt").input_ids
    served, trained, before = (AutoModelForCausalLM.from_pretrained(each) for each in (folder, base, base))
    parameters = dict(trained.named_parameters())
    found = {name.removeprefix("parameter."): value for name, value in load_file(state).items() if "parameter." in name}
    with torch.no_grad():
        for name, value in found.items():
            parameters[name].copy_(value)
        logits, expected, old = (each(tokens).logits for each in (served, trained, before))
    changed = sum(not torch.equal(value, dict(before.named_parameters())[name]) for name, value in parameters.items())
    print(
        json.dumps(
            {
                "equal": torch.equal(logits, expected),
                "far": float((logits - old).abs().max()),
                "all": set(found) == set(parameters),
                "changed": changed == len(parameters),
                "format": str(served.dtype),
            }
        )
    )
