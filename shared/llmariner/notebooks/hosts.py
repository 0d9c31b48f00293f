"""The hosts at which browsers open notebooks: one for each, so that the pages of one can't reach another's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from llmariner.errors import PermissionDenied, Unavailable

__all__ = ["NotebookHosts", "parse_notebook_url"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+")
# Browsers take a name that ends so for an IPv4 address, which has no names in front of it.
_ADDRESS = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
_MAX_NAME, _MAX_PORT = 253, 65535
SETTING = "LLMARINER_NOTEBOOK_URL"


def parse_notebook_url(value: str) -> str:
    """A URL whose host is `*.` and a domain, such as https://*.notebooks.example.org. Raises ValueError for any other."""
    text = value.rstrip("/").lower()
    parts = urlsplit(text)
    name = (parts.hostname or "").removeprefix("*.")
    is_wildcard = parts.hostname == f"*.{name}" and len(name) <= _MAX_NAME and _NAME.fullmatch(name)
    port = parts.netloc.removeprefix(f"*.{name}")
    is_whole = text == f"{parts.scheme}://{parts.netloc}" and re.fullmatch(r"(:[1-9][0-9]{0,4})?", port)
    if (
        parts.scheme not in ("http", "https")
        or not (is_wildcard and is_whole)
        or _ADDRESS.fullmatch(name)
        or int(port[1:] or 1) > _MAX_PORT
    ):
        raise ValueError(
            f"{SETTING} must be a URL such as https://*.notebooks.example.org, with a name of DNS after '*.' and no port "
            f"above {_MAX_PORT}, not {value!r}."
        )
    return text


@dataclass(frozen=True)
class NotebookHosts:
    """Where browsers open notebooks.

    `url`: of all of them, with `*` in place of a notebook's id; "": at the id in front of any name. `rewritten`: the Gateway
    of a cluster replaces the field `Host`, and says in `X-Forwarded-Host` what it was, whatever a client says there.
    """

    url: str = ""
    rewritten: bool = False

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach them by https alone."""
        return self.url.startswith("https://")

    def url_of(self, notebook_id: str) -> str | None:
        """The URL of a notebook's host; None where a client finds it by the platform's own. Raises Unavailable."""
        if not self.url and self.rewritten:
            raise Unavailable(
                "Browsers don't reach notebooks of this installation: an operator gives them hosts of their own with "
                f"{SETTING}. Programs send an API key to the notebook's path.",
                code="no_notebook_hosts",
                headers={"x-should-retry": "false"},
            )
        return self.url.replace("*", notebook_id, 1) or None

    def host_of(self, headers: Mapping[str, str]) -> str:
        """The host in a browser's address bar, as a request has it."""
        return headers.get("x-forwarded-host" if self.rewritten else "host", "").lower()

    def check(self, headers: Mapping[str, str], notebook_id: str) -> None:
        """Raises PermissionDenied for a request at a host that is not the notebook's, Unavailable where none has one."""
        expected = self.url_of(notebook_id)
        name = self.host_of(headers).partition(":")[0]
        label, _, rest = name.partition(".")
        is_own = name == urlsplit(expected).hostname if expected else label == notebook_id and bool(rest)
        if not is_own:
            example = urlsplit(expected).netloc if expected else f"{notebook_id}.localhost on the platform's machine"
            raise PermissionDenied(
                f"A browser opens this notebook at its own host only, such as {example}: "
                "get a link there with `llma workspace notebooks open`. Programs send an API key instead.",
                code="notebook_host_required",
            )
