"""Fetch a model from a Hugging Face hub. Runs in the engine environment: REPOSITORY TARGET.

Progress goes to standard output, one JSON object a line. After an interruption the
next run resumes, since the hub client keeps partial files.
"""

import json
import os
import sys
import threading
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "tokenizer*"]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(repository: str, target: Path) -> None:
    info = HfApi().model_info(repository, files_metadata=True)
    total = sum(file.size or 0 for file in info.siblings or () if file.rfilename.endswith((".safetensors", ".json")))
    part = target.with_name(target.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(1.0):
            print(json.dumps({"done": size_of(part), "total": total, "what": "bytes"}), flush=True)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    snapshot_download(repository, local_dir=part, allow_patterns=_PATTERNS)
    ended.set()
    reporter.join()
    os.replace(part, target)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
