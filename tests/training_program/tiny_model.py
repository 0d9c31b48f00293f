"""Makes folders with tiny models of random weights, with the tokenizer of a real one: SOURCE TARGET[=SPREAD] [TARGET…].

SPREAD: the standard deviation of its weights. With a large one some tokens are much likelier than others.
"""

import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def make(source: Path, target: Path, spread: float) -> None:
    """Copy the tokenizer and its template, and write weights."""
    target.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (source / name).is_file():
            shutil.copy(source / name, target / name)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=spread,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(target)


if __name__ == "__main__":
    for each in sys.argv[2:]:
        target, _, spread = each.partition("=")
        make(Path(sys.argv[1]), Path(target), float(spread or 0.02))
