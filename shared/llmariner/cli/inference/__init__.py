"""Commands for inference: chat, completions, embeddings, tokens."""
