"""The tool `file_search`: retrieval for a conversation, the passages in its prompt, and checked citations of its answer.

Routes that generate text use it for requests with the tool alone; nothing of it is imported for others.
"""
