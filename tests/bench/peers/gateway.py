"""Our chat function as its image boots it: keys checked, limits counted, usage read and recorded."""

from __future__ import annotations

from dataclasses import replace

from ..children import free_port
from ..environments import UnavailableError
from ..target import Site, Target
from .installation import functions, install

CHAT = "chat_completions"


def target(site: Site) -> Target:
    if CHAT not in functions():
        raise UnavailableError(f"functions/{CHAT} does not exist")
    installation = install(site)
    chat = installation.function(CHAT, free_port())
    return replace(chat, companions=(installation.control(),))
