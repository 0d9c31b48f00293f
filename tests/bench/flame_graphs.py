"""`python -m tests.bench.flame_graphs`: where the CPU time of a small request and of a streamed token goes, as two pictures.

perf samples the process of `chat_completions` with its stacks, of the kernel too. Frames are colored by what they belong
to, and adjoining frames of the interpreter are one, so that the pictures show what the platform's own functions take.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from .children import running
from .environments import UnavailableError
from .load_driver import Load, drive
from .measures import request_cost, token_cost
from .peers import gateway
from .run import engine
from .target import Site, Started

DOCS = Path(__file__).parents[2] / "docs"
LOADS = {
    "request": replace(request_cost.LOAD, seconds=6.0),
    "token": replace(token_cost.LOAD, seconds=6.0),
}
SAMPLES_PER_SECOND = 997
WIDTH, ROW, TOP = 960, 17, 46
KERNEL_FRAMES = 5
# Narrower frames have no place for a sign.
SMALLEST_SHARE = 0.004
COLORS = {
    "kernel": "#d98880",
    "token path": "#82b366",
    "interpreter": "#f0c36d",
    "libraries": "#8fb4d9",
}
_FRAME = re.compile(r"^\s+[0-9a-f]+ (?P<symbol>.*) \((?P<file>[^()]*)\)$")
_COMPILED = re.compile(r"^CPy(?:Def|Py)_(?:[a-z_]+___)?(?P<name>\w+?)(?:_gen)?(?:_____mypyc_generator_helper__)?$")

Stack = tuple[tuple[str, str], ...]
"""Frames from the outermost one: the part of the process, and a name."""


@dataclass
class Node:
    """A frame with what it calls; `samples` include those of its callees."""

    samples: int = 0
    callees: dict[tuple[str, str], Node] = field(default_factory=dict)


def part_of(symbol: str, file: str) -> tuple[str, str]:
    """The part that a frame belongs to, and the name that it is shown by."""
    if file.startswith("[kernel") or file.startswith("[guest.kernel"):
        return "kernel", symbol
    if "token_path__mypyc" in file:
        found = _COMPILED.match(symbol)
        return "token path", found["name"] if found else "machine code"
    if "python3" in Path(file).name:
        return "interpreter", "CPython"
    return "libraries", Path(file).name.split(".")[0]


def stacks(script: Iterable[str]) -> Counter[Stack]:
    """The stacks of `perf script`, with the number of samples of each. Adjoining frames of one name are one."""
    counted: Counter[Stack] = Counter()
    frames: list[tuple[str, str]] = []
    for line in [*script, ""]:
        if found := _FRAME.match(line):
            frame = part_of(found["symbol"], found["file"])
            if not frames or frames[-1] != frame:
                frames.append(frame)
        elif not line.strip() and frames:
            counted[_shortened(frames[::-1])] += 1
            frames = []
    return counted


def _shortened(frames: list[tuple[str, str]]) -> Stack:
    """The stack without the kernel's inner functions: dozens of them have about one width."""
    kernel = [frame for frame in frames if frame[0] == "kernel"]
    return (*(frame for frame in frames if frame[0] != "kernel"), *kernel[:KERNEL_FRAMES])


def tree(counted: Counter[Stack]) -> Node:
    """All stacks, joined where they begin alike."""
    root = Node()
    for stack, samples in counted.items():
        node = root
        node.samples += samples
        for frame in stack:
            node = node.callees.setdefault(frame, Node())
            node.samples += samples
    return root


def shares(counted: Counter[Stack]) -> dict[str, float]:
    """The share of each part in the samples, by the innermost frame."""
    total = counted.total()
    found = Counter[str]()
    for stack, samples in counted.items():
        found[stack[-1][0]] += samples
    return {part: found[part] / total for part in COLORS}


def picture(title: str, counted: Counter[Stack]) -> str:
    """The flame graph as SVG: a frame's width is its share of the time, and its callees are above it."""
    root = tree(counted)
    boxes = list(_boxes(root, 0.0, 0, root.samples))
    height = TOP + ROW * (1 + max((depth for _, _, depth, _ in boxes), default=0)) + 8
    parts = shares(counted)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="4" y="15" font-size="13">{escape(title)}</text>',
    ]
    for number, (part, share) in enumerate(parts.items()):
        left = 4 + number * 170
        lines.append(f'<rect x="{left}" y="24" width="11" height="11" fill="{COLORS[part]}"/>')
        lines.append(f'<text x="{left + 16}" y="34">{part}: {share:.0%}</text>')
    for (part, name), start, depth, samples in boxes:
        x, width = WIDTH * start / root.samples, WIDTH * samples / root.samples
        y = height - 8 - ROW * (depth + 1)
        note = quoteattr(f"{name}: {samples / root.samples:.1%}")
        lines.append(
            f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}" fill="{COLORS[part]}">'
            f"<title>{note[1:-1]}</title></rect>"
        )
        letters = int(width / 6.3)
        if letters > 2:
            text = name if len(name) <= letters else name[: letters - 1] + "…"
            lines.append(f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(text)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _boxes(node: Node, start: float, depth: int, total: int) -> Iterator[tuple[tuple[str, str], float, int, int]]:
    """Each frame that is wide enough, with its first sample, its depth and its samples."""
    for frame, callee in sorted(node.callees.items()):
        if callee.samples >= SMALLEST_SHARE * total:
            yield frame, start, depth, callee.samples
            yield from _boxes(callee, start, depth + 1, total)
        start += callee.samples


def sample(load: Load, started: Started, folder: Path) -> Counter[Stack]:
    """The stacks of a process under load. UnavailableError where perf cannot sample it."""
    data = folder / "perf.data"
    # Interpreters are built without frame pointers: the stacks are unwound from copies of 16 KiB.
    record = ["perf", "record", "--event=cpu-clock", f"--freq={SAMPLES_PER_SECOND}", "--call-graph=dwarf,16384"]
    with _recording([*record, f"--output={data}", f"--pid={started.pid}"]):
        drive(load, started)
    script = ["perf", "script", "--no-inline", f"--input={data}", "--fields=ip,sym,dso"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, check=False)
    counted = stacks(done.stdout.splitlines())
    if not counted:
        raise UnavailableError(f"perf has no samples here: {done.stderr.strip()[-300:]}")
    return counted


@contextmanager
def _recording(command: list[str]) -> Iterator[None]:
    """perf beside the load; it ends with an interrupt, and has then written its file."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recorder:
        try:
            yield
        finally:
            recorder.send_signal(2)
            recorder.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.flame_graphs", description=__doc__)
    parser.add_argument("--into", type=Path, default=DOCS, help="the folder of the pictures")
    into: Path = parser.parse_args().into
    if shutil.which("perf") is None:
        sys.exit("perf is not installed (apt install linux-perf)")
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llmariner-flame-") as name:
        folder = Path(name)
        with (
            running(engine(), folder) as direct,
            running(gateway.target(Site(folder, direct.port)), folder) as started,
        ):
            for what, load in LOADS.items():
                counted = sample(load, started, folder)
                title = f"CPU time of chat_completions for a {'streamed token' if what == 'token' else 'small request'}"
                (into / f"flame-{what}.svg").write_text(picture(title, counted))
                print(what, {part: f"{share:.0%}" for part, share in shares(counted).items()}, flush=True)


if __name__ == "__main__":
    main()
