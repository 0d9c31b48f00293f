"""Settings of notebooks."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.environment import Environment, read_number

__all__ = ["NotebookSettings"]


@dataclass(frozen=True)
class NotebookSettings:
    """How many notebooks there are, and how long they run."""

    project_notebooks: int = 20
    """`LLMARINER_PROJECT_NOTEBOOKS`: notebooks of one project."""

    idle_seconds: int = 3600
    """`LLMARINER_NOTEBOOK_IDLE_SECONDS`: a notebook in which nothing runs, and of which nobody asks anything, stops after
    that time."""

    seconds: int = 7 * 86_400
    """`LLMARINER_NOTEBOOK_SECONDS`: how long a notebook may run, and its key is valid, before it is started again."""

    @classmethod
    def load(cls, env: Environment) -> NotebookSettings:
        """Read from a mapping. Raises ValueError for an invalid value."""
        return cls(
            project_notebooks=int(read_number(env, "LLMARINER_PROJECT_NOTEBOOKS", cls.project_notebooks, minimum=1)),
            idle_seconds=int(read_number(env, "LLMARINER_NOTEBOOK_IDLE_SECONDS", cls.idle_seconds, minimum=1)),
            seconds=int(read_number(env, "LLMARINER_NOTEBOOK_SECONDS", cls.seconds, minimum=60)),
        )
