"""The engine environment of standalone mode: vLLM in its own virtual environment, and models from packages.

`make_tool_model.py` is a script that the interpreter of that environment runs; `scripts` starts it through
`exit_with_parent.py`.
"""
