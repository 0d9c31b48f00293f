"""The vector index of one machine: a server process that owns a folder of Milvus Lite."""
