"""GGUF files as Hugging Face folders: the header, the blocks of weights, the tokenizer, and the files that engines read."""

REVISION = 2
"""Raised with every change of what a conversion writes: copies that are under way begin again then, and so does the packaged
model."""
