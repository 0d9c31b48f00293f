"""The engine environment of one machine: vLLM in a virtual environment of its own, and models that come as packages.

`convert_gguf.py` and `fetch_snapshot.py` are scripts that run inside that environment, by its own interpreter, started by
`scripts` through `exit_with_parent.py`.
"""
