"""click classes of `llma`: groups that import their members on use, and global options.

A global option may stand before or after the command's name: `llma models list --output json`.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from llmariner.cli.support.session import Session

__all__ = ["Command", "Group", "LazyGroup", "pass_session"]

pass_session = click.make_pass_decorator(Session, ensure=True)


def _store_global_option(context: click.Context, param: click.Parameter, value: str | None) -> None:
    session = context.ensure_object(Session)
    if value is not None and param.name is not None:
        setattr(session, param.name, value)


def _global_option(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_store_global_option, **attributes)


_GLOBAL_OPTIONS = (
    _global_option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        help="Form of the output; table unless given.",
    ),
    _global_option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        help="Whether to color; auto means on a terminal only.",
    ),
    _global_option(
        "--endpoint",
        metavar="URL",
        help="Base URL of the API. Else LLMARINER_BASE_URL, the context file, http://localhost:8080/v1.",
    ),
)


# For commands whose -o is the organization, as in upstream LLMariner's command line.
_OUTPUT_WITHOUT_SHORT_FLAG = _global_option("--output", type=_GLOBAL_OPTIONS[0].type, help=_GLOBAL_OPTIONS[0].help)


class _GlobalOptions(click.Command):
    """Adds the global options to a command, except those whose name it uses itself."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        used_names = {name for param in own for name in (param.name, *param.opts)}
        first, *others = _GLOBAL_OPTIONS
        options = (_OUTPUT_WITHOUT_SHORT_FLAG if "-o" in used_names else first, *others)
        return [*own, *(option for option in options if option.name not in used_names)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        global_records: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and not isinstance(param, click.Argument):
                (global_records if param in (*_GLOBAL_OPTIONS, _OUTPUT_WITHOUT_SHORT_FLAG) else own).append(record)
        for title, records in (("Options", own), ("Global options", global_records)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Command(_GlobalOptions):
    """A leaf command with the global options."""


class Group(_GlobalOptions, click.Group):
    """A group of commands with the global options."""

    command_class = Command
    group_class = type

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)


class LazyGroup(Group):
    """A group whose members are import paths (`module:attribute`), imported on use.

    `aliases`: alternative names of members, which help does not list.
    """

    def __init__(
        self, *args: Any, members: dict[str, str], aliases: dict[str, str] | None = None, **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self._members = members
        self._aliases = aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        path = self._members.get(self._aliases.get(cmd_name, cmd_name))
        if path is None:
            return None
        module, _, attribute = path.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # click suggests only loaded commands, of which this group has none.
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self._members, ctx=ctx) from None
