"""Vector stores: their files, batches of files and chunks, ingestion and search."""
