"""Quality of searches in vector stores: questions about documents whose right passage is known."""
