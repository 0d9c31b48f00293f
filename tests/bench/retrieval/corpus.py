"""Documents that the Python of this environment ships: its language reference and the docstrings of standard modules.

Each document is Markdown; each passage that a question may ask for is a section of it, known by its heading.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pydoc_data.topics import topics

__all__ = ["documents", "passages"]

# Topics that repeat others as a whole.
_COLLECTIONS = {"compound", "else", "specialnames", "types"}
_MODULES = """
argparse base64 bisect calendar codecs collections configparser contextlib copy csv dataclasses datetime decimal difflib
email.utils enum fileinput filecmp fnmatch fractions functools gc getpass glob gzip hashlib heapq hmac html http.client
inspect io ipaddress itertools json linecache locale logging math mimetypes operator os pathlib pickle platform posixpath
pprint queue random re sched secrets select shelve shlex shutil signal smtplib socket sqlite3 statistics string struct
subprocess tarfile tempfile textwrap threading time timeit tomllib traceback types unicodedata urllib.parse urllib.request
uuid warnings weakref webbrowser zipfile zlib zoneinfo
"""
_UNDERLINE = re.compile(r"^(.+)\n([*=\-~^]{3,})$", re.M)
_LEVELS = {"*": 1, "=": 2, "-": 3, "~": 4, "^": 5}


def documents() -> Mapping[str, str]:
    """Text of each document by its file name."""
    found = {f"topic-{name}.md": _topic(name, text) for name, text in topics.items() if name not in _COLLECTIONS}
    return found | {f"module-{name}.md": _module(name) for name in _MODULES.split()}


def passages(document: str) -> set[str]:
    """The headings of a document, as a search result names them."""
    return {match[1] for match in re.finditer(r"^#+ (.+)$", document, re.M)}


def _topic(name: str, text: str) -> str:
    """A topic of the language reference; its own heading is the topic's name, since titles occur twice."""
    body = _UNDERLINE.sub(lambda match: f"{'#' * (1 + _LEVELS[match[2][0]])} {match[1].strip()}", text)
    return f"# Python topic: {name}\n\n{body}\n"


def _module(name: str) -> str:
    module = importlib.import_module(name)
    sections = [f"# Python module {name}", f"## About {name}", _plain(module)]
    for attribute in getattr(module, "__all__", None) or sorted(vars(module)):
        value = getattr(module, attribute, None)
        home = getattr(value, "__module__", None) or ""
        if attribute.startswith("_") or not callable(value) or not (inspect.isclass(value) or _is_own(home, module)):
            continue
        if inspect.isclass(value) and (issubclass(value, BaseException) or not _is_own(home, module)):
            continue
        sections += _section(f"{name}.{attribute}", value)
        if inspect.isclass(value):
            for method, function in _methods(value):
                sections += _section(f"{name}.{attribute}.{method}", function)
    return "\n\n".join(sections) + "\n"


def _is_own(home: str, module: object) -> bool:
    """Whether something is defined in a module, or in the C part of it."""
    name = getattr(module, "__name__", "")
    package = name.partition(".")[0]
    return home.lstrip("_").startswith(package) or home in {"", "nt", "posix", "genericpath", "sre_compile"}


def _methods(value: type) -> Iterator[tuple[str, object]]:
    for name, member in sorted(vars(value).items()):
        if not name.startswith("_") and (callable(member) or isinstance(member, property | classmethod | staticmethod)):
            yield name, member


def _section(title: str, value: object) -> list[str]:
    text = _plain(value)
    return [f"## {title}", text] if text else []


def _plain(value: object) -> str:
    """A docstring whose lines are no headings of Markdown."""
    text = inspect.getdoc(value) or ""
    return re.sub(r"^([#=\-*~]+)", r"    \1", text, flags=re.M).strip()
