"""`llma admin`: commands for administrators of an organization. Subcommands are imported on use."""

from __future__ import annotations

import click

from llmariner.cli.support.click_extensions import LazyGroup

__all__ = ["admin"]

_MEMBERS = {
    "organizations": "llmariner.cli.admin.organizations:organizations",
    "projects": "llmariner.cli.admin.projects:projects",
    "users": "llmariner.cli.admin.users:users",
    "groups": "llmariner.cli.admin.groups:groups",
    "invites": "llmariner.cli.admin.invites:invites",
    "roles": "llmariner.cli.admin.roles:roles",
    "keys": "llmariner.cli.admin.keys:keys",
    "limits": "llmariner.cli.admin.limits:limits",
    "budgets": "llmariner.cli.admin.budgets:budgets",
    "quota": "llmariner.cli.admin.quota:quota",
    "usage": "llmariner.cli.admin.usage:usage",
    "showback": "llmariner.cli.admin.showback:showback",
    "clusters": "llmariner.cli.admin.clusters:clusters",
    "prices": "llmariner.cli.admin.prices:prices",
    "audit": "llmariner.cli.admin.audit:audit",
}
_ALIASES = {
    "organization": "organizations",
    "orgs": "organizations",
    "org": "organizations",
    "project": "projects",
    "user": "users",
    "group": "groups",
    "invite": "invites",
    "role": "roles",
    "key": "keys",
    "limit": "limits",
    "budget": "budgets",
    "quotas": "quota",
    "price": "prices",
    "cluster": "clusters",
}


@click.group(cls=LazyGroup, members=_MEMBERS, aliases=_ALIASES)
def admin() -> None:
    """Administer organizations, users, keys, limits and clusters."""
