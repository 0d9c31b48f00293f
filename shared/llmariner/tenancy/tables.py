"""Tables of tenancy. Times are in seconds since 1970. Lists and objects are stored as JSON text."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    String,
    Table,
    Text,
    false,
    text,
)

from llmariner.platform.database import metadata

__all__ = [
    "api_keys",
    "custom_roles",
    "group_roles",
    "groups",
    "invites",
    "is_human",
    "organization_users",
    "organizations",
    "project_users",
    "projects",
    "removals",
    "user_groups",
    "users",
]


def _organization() -> Column[str]:
    return Column("organization_id", String(64), ForeignKey("organizations.id"), nullable=False)


organizations = Table(
    "organizations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("title", String(256), nullable=False, unique=True),
    Column("is_default", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", String(64), primary_key=True),
    _organization(),
    Column("title", String(256), nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("archived_at", BigInteger),
    Column("kubernetes_namespace", String(63)),
    Column("assignments", Text),
    # The models that its members may use: 'allow' only these, 'deny' these, or NULL: all.
    Column("model_mode", String(8)),
    Column("model_ids", Text),
    Index("ix_projects_organization_id", "organization_id"),
)

# People and service accounts; `email` is in lower case, `system:serviceaccount:…` for the latter. `kind`: 'person',
# 'service_account', or 'bootstrap': the first administrator, which no sign-in can be linked to.
users = Table(
    "users",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("email", String(320), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("name", String(256)),
    Column("kind", String(16), nullable=False, server_default=text("'person'")),
    # The OpenID Connect identity of a person, set by the first sign-in.
    Column("issuer", String(512)),
    Column("subject", String(512)),
    Column("last_login_at", BigInteger),
    # Deadline for a first sign-in to claim an account that administers an organization; NULL: not claimable until an owner
    # of the default organization unlinks it.
    Column("claimable_until", BigInteger),
    # When an owner unlinked the account from its sign-in: tokens that were issued earlier cannot claim it.
    Column("unlinked_at", BigInteger),
    # A copy of `user_groups` as a JSON list, for the release before that table; and when its token was issued, or when an
    # owner removed the person: group claims of older tokens are ignored.
    Column("groups", Text),
    Column("groups_at", BigInteger),
    Column("hidden", Boolean, nullable=False, server_default=false()),
    # Increases with each change of the person's permissions, in the same sequence as the revisions of keys.
    Column("revision", BigInteger, nullable=False, server_default=text("0")),
    Index("ix_users_revision", "revision"),
    Index("ix_users_subject", "issuer", "subject", unique=True),
)

# The issuer's groups of a person, from the claims of the newest token.
user_groups = Table(
    "user_groups",
    metadata,
    Column("user_id", String(64), ForeignKey("users.id"), primary_key=True),
    Column("name", String(256), primary_key=True),
    Column("issuer", String(512), nullable=False),
    Index("ix_user_groups_name", "issuer", "name", "user_id"),
)

# People whom an owner removed: groups do not add them again. `project_id` empty: removed from the whole organization.
removals = Table(
    "removals",
    metadata,
    Column("organization_id", String(64), ForeignKey("organizations.id"), primary_key=True),
    Column("project_id", String(64), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id"), primary_key=True),
    Column("removed_at", BigInteger, nullable=False),
    Index("ix_removals_user_id", "user_id"),
)

is_human: ColumnElement[bool] = users.c.kind.in_(("person", "bootstrap"))
"""Condition on rows of `users`: not a service account."""

organization_users = Table(
    "organization_users",
    metadata,
    Column("organization_id", String(64), ForeignKey("organizations.id"), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id"), primary_key=True),
    Column("role", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # Granted by a group of the issuer, and revoked with it.
    Column("of_group", Boolean, nullable=False, server_default=false()),
    Index("ix_organization_users_user_id", "user_id"),
)

project_users = Table(
    "project_users",
    metadata,
    Column("project_id", String(64), ForeignKey("projects.id"), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id"), primary_key=True),
    _organization(),
    Column("role", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("of_group", Boolean, nullable=False, server_default=false()),
    Index("ix_project_users_user_id", "user_id"),
)

# Custom roles: named sets of scopes; `project_id` NULL: assignable in the whole organization.
custom_roles = Table(
    "custom_roles",
    metadata,
    Column("id", String(64), primary_key=True),
    _organization(),
    Column("project_id", String(64), ForeignKey("projects.id")),
    Column("name", String(256), nullable=False),
    Column("description", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_custom_roles_name", "organization_id", "name"),
)

invites = Table(
    "invites",
    metadata,
    Column("id", String(64), primary_key=True),
    _organization(),
    Column("email", String(320), nullable=False),
    Column("role", String(64), nullable=False),
    Column("projects", Text, nullable=False),
    # The keyed hash of the token; the token itself is not stored.
    Column("digest", String(64), nullable=False, unique=True),
    Column("invited_by", String(64), ForeignKey("users.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("accepted_at", BigInteger),
    Column("revoked_at", BigInteger),
    Index("ix_invites_email", "email"),
    Index("ix_invites_organization_id", "organization_id"),
)

# Groups of an issuer that are registered in an organization, with or without a role.
groups = Table(
    "groups",
    metadata,
    Column("id", String(64), primary_key=True),
    _organization(),
    Column("issuer", String(512), nullable=False),
    Column("name", String(256), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_groups_name", "organization_id", "issuer", "name", unique=True),
)

# The roles that a group of an issuer grants; `project_id` NULL: a role in the organization.
group_roles = Table(
    "group_roles",
    metadata,
    Column("id", String(64), primary_key=True),
    _organization(),
    Column("issuer", String(512), nullable=False),
    Column("group_name", String(256), nullable=False),
    Column("project_id", String(64), ForeignKey("projects.id")),
    Column("role", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_group_roles_group", "issuer", "group_name"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(256), nullable=False),
    Column("user_id", String(64), ForeignKey("users.id"), nullable=False),
    # NULL: an admin key (`kind` 'admin'), which administers an organization and belongs to no project.
    Column("project_id", String(64), ForeignKey("projects.id")),
    Column("organization_id", String(64), ForeignKey("organizations.id"), nullable=False),
    Column("prefix", String(32), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    Column("revoked_at", Float),
    Column("excluded_from_rate_limiting", Boolean, nullable=False),
    # The secret is never stored. Two digests, so that the previous secret works during the overlap of a rotation.
    Column("digest", String(64), nullable=False, unique=True),
    Column("previous_digest", String(64), unique=True),
    Column("previous_expires_at", Float),
    # Increases with every change of any key: gateway instances poll for changes since a revision.
    Column("revision", BigInteger, nullable=False, index=True),
    Column("kind", String(16), nullable=False, server_default=text("'project'")),
    # NULL: all models, all networks.
    Column("allowed_models", Text),
    Column("allowed_sources", Text),
    Index("ix_api_keys_live_name", "user_id", "name"),
    Index("ix_api_keys_project_id", "project_id"),
)
