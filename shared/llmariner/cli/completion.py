"""`llma completion`: shell completion scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from llmariner.cli.support.click_extensions import Command

__all__ = ["completion"]


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash:  llma completion bash > ~/.local/share/bash-completion/completions/llma
    zsh:   llma completion zsh > "${fpath[1]}/_llma"
    fish:  llma completion fish > ~/.config/fish/completions/llma.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "llma", "_LLMA_COMPLETE").source())
