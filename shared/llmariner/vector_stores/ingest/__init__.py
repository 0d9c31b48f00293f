"""Ingestion of files into vector stores: parsing, chunking, embedding and indexing, in slices."""
