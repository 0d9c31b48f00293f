"""The root of `llma`: registers the commands, and maps the outcome of a command to an exit code.

Members are import paths, so that a command imports only what it needs.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import click

from llmariner.cli.support.click_extensions import LazyGroup
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.terminal import configure_streams, discard_output, write_stderr

__all__ = ["llma", "main"]

_MEMBERS = {
    "up": "llmariner.cli.platform:up",
    "down": "llmariner.cli.platform:down",
    "status": "llmariner.cli.status:status",
    "doctor": "llmariner.cli.platform:doctor",
    "logs": "llmariner.cli.platform:logs",
    "cluster": "llmariner.cli.cluster:cluster",
    "clusters": "llmariner.cli.clusters:clusters",
    "auth": "llmariner.cli.auth:auth",
    "models": "llmariner.cli.models.commands:models",
    "chat": "llmariner.cli.inference.chat:chat",
    "completions": "llmariner.cli.inference.completions:completions",
    "embeddings": "llmariner.cli.inference.embeddings:embeddings",
    "tokenize": "llmariner.cli.inference.tokens:tokenize",
    "detokenize": "llmariner.cli.inference.tokens:detokenize",
    "fine-tuning": "llmariner.cli.fine_tuning:fine_tuning",
    "batch": "llmariner.cli.batch:batch",
    "workspace": "llmariner.cli.workspace:workspace",
    "storage": "llmariner.cli.storage:storage",
    "usage": "llmariner.cli.usage:usage",
    "events": "llmariner.cli.events:events",
    "admin": "llmariner.cli.admin:admin",
    "context": "llmariner.cli.context:context",
    "completion": "llmariner.cli.completion:completion",
    "version": "llmariner.cli.version:version",
}

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)


@click.group(
    "llma",
    cls=LazyGroup,
    members=_MEMBERS,
    aliases={"st": "storage", "ft": "fine-tuning", "ws": "workspace"},
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
def llma() -> None:
    """Run and use LLMariner, the LLM platform that speaks OpenAI's API.

    `llma up` starts a platform on this machine. Other commands talk to the one that --endpoint names, with the
    key from LLMARINER_API_KEY, else from the context file, else (on this machine) the administrator's.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: `sys.argv`) and return its exit code."""
    configure_streams()
    try:
        result = llma.main(arguments, prog_name="llma", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as error:
        if not error.code:  # shell completion exits this way
            return ExitCode.OK
        discard_output()  # click and rich raise SystemExit for a closed pipe
        return ExitCode.PIPE_CLOSED
    except OSError as error:
        discard_output()
        CommandError(
            ExitCode.OUTPUT_ERROR,
            f"the output could not be written: {error.strerror or error}.",
            next_step="make room for it.",
        ).show()
        return ExitCode.OUTPUT_ERROR
    except CommandError as failure:
        failure.show()
        return failure.code
    except click.Abort:
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        shown = io.StringIO()  # the message may quote the server
        error.show(shown)
        write_stderr(shown.getvalue().rstrip("\n"))
        return ExitCode.USAGE
    # Commands return None; an integer is click's own exit code, such as 0 after --help.
    return result if isinstance(result, int) else ExitCode.OK
