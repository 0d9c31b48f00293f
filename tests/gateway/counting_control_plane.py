"""The control plane with a counter of its database's statements: `python counting_control_plane.py FILE` writes the counts.

A statement counts for the table that it names first; SQLite's BEGIN counts for the table that follows.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import event

from llmariner.boot import load, serve
from llmariner.context import Context
from llmariner.standalone.platform import checkout_root

_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE) (\w+)")


class Counts:
    """Statements by the table they are on."""

    def __init__(self) -> None:
        self.of_table: Counter[str] = Counter()
        self._begun = threading.local()

    def note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("BEGIN"):
            self._begun.at = True
            return
        found = _TABLE.search(statement)
        self.of_table[found[1] if found else statement[:40]] += 1 + bool(getattr(self._begun, "at", False))
        self._begun.at = False


def main(file: Path, port: int) -> None:
    context = Context()
    counts = Counts()
    event.listen(context.database.engine, "before_cursor_execute", counts.note)

    def write() -> None:
        while True:
            file.with_suffix(".new").write_text(json.dumps(dict(counts.of_table)))
            file.with_suffix(".new").replace(file)
            time.sleep(0.2)

    threading.Thread(target=write, daemon=True).start()
    application = load(checkout_root() / "functions" / "internal_gateway")
    application.use_context(context)
    serve(application.prepare(), host="127.0.0.1", port=port)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
