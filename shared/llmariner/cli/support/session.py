"""The state of one run of `llma`: the global options, and the objects derived from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from llmariner.cli.sign_in.token_store import SignInFile
    from llmariner.cli.support.api import ApiClient
    from llmariner.cli.support.configuration import ContextFile, Target
    from llmariner.cli.support.output import Printer

__all__ = ["Session"]


@dataclass
class Session:
    """The global options, and the objects derived from them. click creates one per run."""

    output: str = "table"
    color: str = "auto"
    endpoint: str | None = None
    _target: Target | None = field(default=None, init=False, repr=False)

    @property
    def printer(self) -> Printer:
        """A printer for the selected output format."""
        from llmariner.cli.support.output import Printer

        return Printer(self.output, self.color)

    def target(self) -> Target:
        """The resolved target, cached. CommandError for an invalid configuration."""
        from llmariner.cli.support.configuration import resolve_target
        from llmariner.settings import environment

        if self._target is None:
            self._target = resolve_target(environment(), endpoint=self.endpoint)
        return self._target

    def authenticated_target(self) -> Target:
        """As `target`; the token of a sign-in is refreshed if it expires within a minute."""
        target = self.target()
        if target.sign_in is not None:
            from llmariner.cli.sign_in.token_refresh import ensure_fresh

            self._target = target.with_sign_in(ensure_fresh(self.sign_in_file(), target.endpoint, target.sign_in))
        return self.target()

    def reset_target(self) -> None:
        """Drop the cached target after a change of the configuration."""
        self._target = None

    def sign_in_file(self) -> SignInFile:
        """The file that `llma auth login` writes."""
        from llmariner.cli.sign_in.token_store import SignInFile
        from llmariner.settings import environment

        return SignInFile.from_environment(environment())

    def context_file(self) -> ContextFile:
        """The file that `llma context` reads and writes."""
        from llmariner.cli.support.configuration import ContextFile
        from llmariner.settings import environment

        return ContextFile.from_environment(environment())

    def api(self) -> ApiClient:
        """A client for the target, closed when the command ends."""
        from llmariner.cli.support.api import ApiClient

        return click.get_current_context().with_resource(ApiClient(self.authenticated_target()))

    def anonymous_api(self) -> ApiClient:
        """A client for the target without credentials, closed when the command ends."""
        from llmariner.cli.support.api import ApiClient

        return click.get_current_context().with_resource(ApiClient(self.target().anonymous()))
