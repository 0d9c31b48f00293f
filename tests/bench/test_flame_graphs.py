"""Flame graphs: stacks of perf are joined by part, and drawn to scale."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from .flame_graphs import picture, shares, stacks

SCRIPT = """
            ffff1 tcp_sendmsg ([kernel.kallsyms])
            ffff2 do_syscall_64 ([kernel.kallsyms])
            7f001 __send (/usr/lib/libc.so.6)
            7f002 PyObject_Vectorcall (/usr/lib/libpython3.11.so.1.0)
            7f003 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)

            7f004 CPyDef_meter___MeteredRequest___next_event (/cache/token_path__mypyc.cpython-311-x86_64-linux-gnu.so)
            7f003 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)
""".splitlines()


def test_stacks_are_read_from_the_outermost_frame_and_adjoining_frames_of_the_interpreter_are_one() -> None:
    counted = stacks(SCRIPT)
    names = [[name for _, name in stack] for stack in counted]
    assert names == [
        ["CPython", "libc", "do_syscall_64", "tcp_sendmsg"],
        ["CPython", "MeteredRequest___next_event"],
    ]
    assert shares(counted) == {"kernel": 0.5, "token path": 0.5, "interpreter": 0.0, "libraries": 0.0}


def test_a_picture_has_a_frame_for_each_callee_as_wide_as_its_share() -> None:
    root = ET.fromstring(picture("a <request>", stacks(SCRIPT)))
    widths = {
        title.text: float(frame.attrib["width"])
        for frame in root.iter("{http://www.w3.org/2000/svg}rect")
        for title in frame
    }
    assert widths["CPython: 100.0%"] == 959.5
    assert widths["MeteredRequest___next_event: 50.0%"] == widths["libc: 50.0%"] == 479.5
