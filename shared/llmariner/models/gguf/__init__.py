"""GGUF files as Hugging Face folders: the header, the blocks of weights, the tokenizer, and the files that engines read."""
