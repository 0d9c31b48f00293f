"""The control function, with the database's statements counted: `python counted_control.py FILE` writes the counts there.

A statement on the table of allowances is one of limits, and so is the BEGIN that SQLite is sent before it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event

from llmariner.boot import load, serve
from llmariner.context import Context
from llmariner.local.home import checkout


class Counts:
    """Statements by what they are about."""

    def __init__(self) -> None:
        self.all = self.limits = 0
        self._begun = threading.local()

    def note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.all += 1
        if statement.startswith("BEGIN"):
            self._begun.at = True
            return
        if "allowances" in statement:
            self.limits += 1 + bool(getattr(self._begun, "at", False))
        self._begun.at = False


def main(file: Path, port: int) -> None:
    context = Context()
    counts = Counts()
    event.listen(context.database.engine, "before_cursor_execute", counts.note)

    def write() -> None:
        while True:
            file.with_suffix(".new").write_text(json.dumps({"all": counts.all, "limits": counts.limits}))
            file.with_suffix(".new").replace(file)
            time.sleep(0.2)

    threading.Thread(target=write, daemon=True).start()
    application = load(checkout() / "functions" / "internal_gateway")
    application.use(context)
    serve(application.prepare(), host="127.0.0.1", port=port)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
