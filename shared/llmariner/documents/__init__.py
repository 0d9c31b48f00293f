"""Text of documents: parsing into blocks, in a process with limits, and chunking for retrieval."""
