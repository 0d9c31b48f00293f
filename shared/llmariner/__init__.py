"""LLMariner on Knative: the package that functions, event consumers and the command line share."""

import os

__version__ = "0.4.0"

if _compiled := os.environ.get("LLMARINER_COMPILED"):
    from llmariner.compiled import activate

    activate(_compiled)
