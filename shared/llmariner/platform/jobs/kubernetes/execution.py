"""Programs that are started in the containers of jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmariner.platform.jobs import ExecOutput

if TYPE_CHECKING:
    from llmariner.platform.kube.pod_programs import PodProgram

__all__ = ["PodExecution", "command_line"]

_RUN = """\
exec 3<&0 4</dev/null
alone() {
  if command -v setsid >/dev/null; then exec setsid /bin/sh -c 'exec "$@"' sh "$@"; fi
  if command -v python3 >/dev/null; then
    exec python3 -I -c 'import os, sys; os.setsid(); os.execv("/bin/sh", sys.argv[1:])' sh -c 'exec "$@"' sh "$@"
  fi
  exec "$@"
}
remove() {
  if command -v rm >/dev/null; then rm -f "$1"; else python3 -I -c 'import os, sys; os.unlink(sys.argv[1])' "$1"; fi
}
first() {
  if command -v head >/dev/null; then head -c "$1"; else
    python3 -I -c 'import sys; sys.stdout.buffer.write(sys.stdin.buffer.read(int(sys.argv[1])))' "$1"
  fi
}
if [ "$1" -gt 0 ]; then
  input="/tmp/.stdin-$$"
  first "$1" <&3 >"$input" && exec 4<"$input" || exit 126
  remove "$input"
fi
shift
alone "$@" <&4 3<&- 4<&- &
child=$!
{
  while read -r line; do :; done
  kill -KILL -$child || kill -KILL $child
} <&3 >/dev/null 2>&1 4<&- &
watch=$!
wait $child
code=$?
kill -KILL -$child 2>/dev/null
kill $watch 2>/dev/null
exit $code
"""
"""Runs a program, whose input is the first bytes of the standard input, as many as its first argument says.

The rest has no bytes: its end means that the caller has left, of which a container runtime tells a program nothing else.
What the program began ends with it: the runtime would wait for all that hold its output.
"""


class PodExecution:
    """See `platform.jobs.Execution`. `on_close` is called once."""

    def __init__(self, program: PodProgram, stdin: bytes, on_close: Callable[[], None]) -> None:
        self._program = program
        self._on_close = on_close
        program.write(stdin)

    @property
    def exit_code(self) -> int | None:
        """See the port."""
        return self._program.exit_code

    def read(self, seconds: float) -> ExecOutput | None:
        """See the port."""
        found = self._program.read(seconds)
        return None if found is None else ExecOutput(*found)

    def close(self) -> None:
        """See the port."""
        self._program.close()
        on_close, self._on_close = self._on_close, lambda: None
        on_close()


def command_line(argv: Sequence[str], stdin: bytes) -> list[str]:
    """The arguments by which the API server starts a program with that input."""
    return ["/bin/sh", "-c", _RUN, "sh", str(len(stdin)), *argv]
