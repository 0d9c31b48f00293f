"""`llma admin quota`: GPUs, cores and memory of projects, with their use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import complete_projects, resolve_organization, resolve_project
from llmariner.cli.support.session import Session

__all__ = ["quota"]

_RESOURCES = ("gpu", "cpu", "memory")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]i?|)b?", re.IGNORECASE)


class _Amount(click.ParamType[Any]):
    """An amount of a resource, or a word: `none` takes a quota away, `any` is all that is free."""

    def __init__(self, resource: str, word: str) -> None:
        self._resource = resource
        self._word = word
        self.name = f"{'SIZE' if resource == 'memory' else 'N'}|{word}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == self._word or not isinstance(value, str):
            return value
        found = _SIZE.fullmatch(value) if value.isascii() else None
        if found is None or (found[2] and self._resource != "memory"):
            example = "32GiB" if self._resource == "memory" else "4"
            self.fail(f"{value!r} is neither an amount such as {example} nor '{self._word}'.", param, ctx)
        if self._resource == "cpu":
            return float(found[1])
        amount = float(found[1]) * _UNITS[found[2].lower()]
        if amount != int(amount):
            self.fail(f"{value!r} must be a whole number.", param, ctx)
        return int(amount)


@click.group(cls=Group)
def quota() -> None:
    """GPUs, cores and memory that projects may use at a time."""


@quota.command("list")
@pass_session
def list_quotas(session: Session) -> None:
    """List quotas of projects, and what is used of them."""
    from llmariner.cli.support.output import Column

    document = _all_pages(session)
    columns = [
        Column("PROJECT", lambda row: row["project"]),
        Column("RESOURCE", lambda row: row["resource"]),
        Column("USED", lambda row: row["used"], True),
        Column("QUOTA", lambda row: row["quota"], True),
        Column("BORROWED", lambda row: row["borrowed"], True),
        Column("WAITING", lambda row: row["waiting"], True),
        *(Column(kind.upper(), _cell(kind), True) for kind in _kinds(document)),
        Column("SET BY", lambda row: row.get("set_by")),
    ]
    rows = [row for each in document["data"] for row in _rows(each, each["name"])]
    if (whole := document.get("organization")) is not None and whole["created_at"] is not None:
        rows += _rows(whole, "(organization)")
    rows += _pool_rows(document.get("pool"))
    session.printer.print_records(document, rows, columns, empty="No project has a quota or uses anything.")


@quota.command("set")
@click.option("--project", metavar="TITLE_OR_ID", shell_complete=complete_projects, help="Else the organization.")
@click.option("--gpu", type=_Amount("gpu", "none"), help="GPUs of its own; none: no quota on GPUs.")
@click.option("--cpu", type=_Amount("cpu", "none"), help="Cores of its own.")
@click.option("--memory", type=_Amount("memory", "none"), help="Memory of its own, such as 32GiB.")
@click.option("--borrow-gpu", type=_Amount("gpu", "any"), help="GPUs that it may borrow besides (0).")
@click.option("--borrow-cpu", type=_Amount("cpu", "any"), help="Cores that it may borrow (0).")
@click.option("--borrow-memory", type=_Amount("memory", "any"), help="Memory that it may borrow (0).")
@pass_session
def set_quota(session: Session, /, project: str | None, **amounts: Any) -> None:
    """Set the quota of a project, or of the organization.

    What is not named stays as it is. Nothing that runs is ended.
    """
    from llmariner.cli.support.api import build_path

    body: dict[str, Any] = {}
    for resource in _RESOURCES:
        own, borrowed = amounts[resource], amounts[f"borrow_{resource}"]
        if own is None and borrowed is not None:
            raise click.UsageError(f"--borrow-{resource} is beyond --{resource}: give both.")
        if own is not None:
            borrowing = None if borrowed == "any" else borrowed or 0
            body[resource] = None if own == "none" else {"nominal": own, "borrowing_limit": borrowing}
    if not body:
        raise click.UsageError("Say what the quota is, such as --gpu 4.")
    api = session.api()
    subject = _subject(session, api, project)
    answer = api.post(build_path("organization", "quotas", subject), body)
    shown = ", ".join(_words(resource, answer[resource]) for resource in _RESOURCES if answer[resource] is not None)
    session.printer.print_message(answer, f"The {answer['subject']} {answer['name']} may use {shown}.")


@quota.command()
@click.option("--project", metavar="TITLE_OR_ID", shell_complete=complete_projects, help="Else the organization.")
@pass_session
def delete(session: Session, project: str | None) -> None:
    """Delete the quota of a project, or of the organization."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    subject = _subject(session, api, project)
    answer = api.delete(build_path("organization", "quotas", subject))
    session.printer.print_message(answer, f"Took the quota of {subject} away.")


def _subject(session: Session, api: Any, project: str | None) -> str:
    if project is None:
        return str(resolve_organization(session, api, None)["id"])
    return str(resolve_project(session, api, project, None)["id"])


def _all_pages(session: Session) -> dict[str, Any]:
    api = session.api()
    document: dict[str, Any] = api.get("organization/quotas", limit=100)
    page = document
    while page.get("has_more"):
        page = api.get("organization/quotas", limit=100, after=page["last_id"])
        document["data"] += page["data"]
    return {**document, "has_more": False}


def _rows(record: dict[str, Any], project: str) -> Iterator[dict[str, Any]]:
    """A row per resource that is limited, used or waited for; the project's name stands in the first."""
    for resource in _RESOURCES:
        each = record[resource]
        if each["nominal"] is None and not each["used"] and not each["waiting"]:
            continue
        limit = None if each["nominal"] is None else _show(resource, each["nominal"])
        extra = each["borrowing_limit"]
        if limit is not None and extra != 0:
            limit += " + any" if extra is None else f" + {_show(resource, extra)}"
        kinds = record["kinds"].items()
        yield {
            "project": project,
            "resource": resource,
            "quota": limit,
            "used": _show(resource, each["used"]),
            "borrowed": _show(resource, each["borrowed"]) if each["borrowed"] else None,
            "waiting": _show(resource, each["waiting"]) if each["waiting"] else None,
            "set_by": None if limit is None else record.get("set_by"),
            **{kind: _show(resource, used[resource]["used"]) for kind, used in kinds if used[resource]["used"]},
        }


def _pool_rows(pool: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The rows of what there is for all projects."""
    if pool is not None:
        whole = {each: {**pool[each], "nominal": pool[each]["total"] or None} for each in _RESOURCES}
        blank = {"borrowing_limit": 0, "borrowed": 0}
        record = {each: {**values, **blank} for each, values in whole.items()}
        yield from _rows({**record, "kinds": pool["kinds"]}, "(all)")


def _kinds(document: dict[str, Any]) -> list[str]:
    """The kinds of workloads that a server tells apart, in its order."""
    records = [*document["data"], document.get("organization"), document.get("pool")]
    return list(dict.fromkeys(kind for each in records if each is not None for kind in each["kinds"]))


def _cell(kind: str) -> Any:
    return lambda row: row.get(kind)


def _words(resource: str, each: dict[str, Any]) -> str:
    """A limit in words, such as `4 GPUs and 2 borrowed ones`."""
    noun = {"gpu": " GPUs", "cpu": " cores", "memory": " of memory"}[resource]
    if each["nominal"] is None:
        return f"any{noun.replace(' of', '')}"
    extra = each["borrowing_limit"]
    more = "" if extra == 0 else " and all that is free" if extra is None else f" and {_show(resource, extra)} borrowed"
    return f"{_show(resource, each['nominal'])}{noun}{more}"


def _show(resource: str, amount: float) -> str:
    from llmariner.cli.support.output import format_bytes

    return format_bytes(amount) or "" if resource == "memory" else f"{amount:g}"
