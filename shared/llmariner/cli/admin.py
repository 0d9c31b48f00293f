"""`llma admin`: what an organisation's administrators do. Members are loaded when one is asked for."""

from __future__ import annotations

import click

from llmariner.cli.grammar import RootGroup

__all__ = ["admin"]

_MEMBERS = {
    "organizations": "llmariner.cli.admin_organizations:organizations",
    "projects": "llmariner.cli.admin_projects:projects",
    "users": "llmariner.cli.admin_users:users",
    "groups": "llmariner.cli.admin_groups:groups",
    "invites": "llmariner.cli.admin_invites:invites",
    "roles": "llmariner.cli.admin_roles:roles",
    "keys": "llmariner.cli.admin_keys:keys",
    "limits": "llmariner.cli.admin_limits:limits",
    "budgets": "llmariner.cli.admin_budgets:budgets",
    "usage": "llmariner.cli.admin_usage:usage",
    "prices": "llmariner.cli.admin_prices:prices",
    "audit": "llmariner.cli.admin_audit:audit",
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
    "price": "prices",
}


@click.group(cls=RootGroup, members=_MEMBERS, aliases=_ALIASES)
def admin() -> None:
    """Administer organizations, and those who are in them."""
