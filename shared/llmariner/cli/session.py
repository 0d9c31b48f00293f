"""What one run of `llma` knows: the global options, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from llmariner.cli.api import Api
    from llmariner.cli.configuration import ContextFile, Target
    from llmariner.cli.printing import Printer

__all__ = ["Session"]


@dataclass
class Session:
    """The global options as given, and what follows from them. Made by click, one per run."""

    output: str = "table"
    color: str = "auto"
    endpoint: str | None = None
    _target: Target | None = field(default=None, init=False, repr=False)

    @property
    def printer(self) -> Printer:
        """Prints in the chosen form."""
        from llmariner.cli.printing import Printer

        return Printer(self.output, self.color)

    def target(self) -> Target:
        """Where requests go. CommandError when the configuration is unusable."""
        from llmariner.cli.configuration import resolve
        from llmariner.settings import environment

        if self._target is None:
            self._target = resolve(environment(), endpoint=self.endpoint)
        return self._target

    def context_file(self) -> ContextFile:
        """What `llma context` reads and writes."""
        from llmariner.cli.configuration import ContextFile
        from llmariner.settings import environment

        return ContextFile.of(environment())

    def api(self) -> Api:
        """A client for the target, closed when the command ends."""
        from llmariner.cli.api import Api

        return click.get_current_context().with_resource(Api(self.target()))
