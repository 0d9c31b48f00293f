"""Commands that ask a model: chat, completions, embeddings, tokens."""
