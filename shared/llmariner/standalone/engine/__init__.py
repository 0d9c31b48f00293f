"""The engine environment of standalone mode: vLLM in its own virtual environment, and models from packages.

`convert_gguf.py` and `fetch_snapshot.py` are scripts that the interpreter of that environment runs; `scripts` starts them
through `exit_with_parent.py`.
"""
