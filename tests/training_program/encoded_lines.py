"""Prints what becomes of training examples: MODEL CONTEXT, with a JSON list of examples as input."""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

from llmariner.fine_tuning.training_program.examples import Encoder


def main() -> None:
    """For each example the trained text of each sequence and all of its text, or the error."""
    tokenizer = AutoTokenizer.from_pretrained(Path(sys.argv[1]))
    encoder = Encoder(tokenizer, [tokenizer.eos_token_id], int(sys.argv[2]))
    found: list[dict[str, object]] = []
    for line in json.load(sys.stdin):
        try:
            sequences = encoder.encode(line).sequences
        except ValueError as error:
            found.append({"error": str(error)})
            continue
        texts = []
        for each in sequences:
            trained = [token for token, is_trained in zip(each.tokens, each.trained, strict=True) if is_trained]
            texts.append([tokenizer.decode(trained), tokenizer.decode(list(each.tokens))])
        found.append({"texts": texts})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
