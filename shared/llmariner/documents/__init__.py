"""Text of documents: parsing into blocks, in a process with limits, and chunking for retrieval.

`parser.extract` reads a file's blocks; `chunking.chunk` splits them by tokens, which `tokens` counts.
"""
