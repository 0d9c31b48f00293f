"""Memberships, roles, invitations and the audit log; more of projects, users and keys."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TABLES = (
    "audit_heads",
    "audit_log",
    "group_roles",
    "invites",
    "custom_roles",
    "project_users",
    "organization_users",
)


# What an owner could have a key carry before this version, and what there is to carry now.
_ALL_BEFORE = (
    "api.api_usages.read api.api_usages.write api.batch.jobs.read api.batch.jobs.write api.clusters.read "
    "api.clusters.write api.events.read api.events.write api.files.read api.files.write api.fine_tuning.jobs.read "
    "api.fine_tuning.jobs.write api.model.read api.model.write api.organizations.projects.api_keys.read "
    "api.organizations.projects.api_keys.write api.selfuser.read api.selfuser.write api.vector-stores.read "
    "api.vector-stores.write api.workspaces.notebooks.read api.workspaces.notebooks.write"
)
_MORE = (
    "api.audit.read api.budgets.read api.budgets.write api.inference.write api.limits.read api.limits.write "
    "api.organizations.projects.read api.organizations.projects.users.read api.organizations.projects.users.write "
    "api.organizations.projects.write api.organizations.read api.organizations.users.read "
    "api.organizations.users.write api.organizations.write api.prices.read api.prices.write"
)


def upgrade() -> None:
    _widen_projects()
    _widen_users()
    _widen_keys()
    _members()
    _roles()
    _invites()
    _audit()
    _join_those_there()


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)
    # A key without a project can't be told in the older schema.
    op.execute("DELETE FROM api_keys WHERE project_id IS NULL")
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_index("ix_api_keys_project_id")
        for column in ("allowed_sources", "allowed_models", "kind"):
            keys.drop_column(column)
        keys.alter_column("project_id", existing_type=sa.String(64), nullable=False)
    op.drop_index("ix_users_subject", "users")
    op.drop_index("ix_users_revision", "users")
    for column in ("revision", "hidden", "last_login_at", "subject", "issuer", "kind", "name"):
        op.drop_column("users", column)
    op.drop_index("ix_projects_organization_id", "projects")
    for column in ("model_ids", "model_mode", "assignments", "kubernetes_namespace", "archived_at"):
        op.drop_column("projects", column)


def _widen_projects() -> None:
    for column in (
        sa.Column("archived_at", sa.BigInteger),
        sa.Column("kubernetes_namespace", sa.String(63)),
        sa.Column("assignments", sa.Text),
        sa.Column("model_mode", sa.String(8)),
        sa.Column("model_ids", sa.Text),
    ):
        op.add_column("projects", column)
    op.create_index("ix_projects_organization_id", "projects", ["organization_id"])


def _widen_users() -> None:
    for column in (
        sa.Column("name", sa.String(256)),
        sa.Column("kind", sa.String(16), nullable=False, server_default=sa.text("'person'")),
        sa.Column("issuer", sa.String(512)),
        sa.Column("subject", sa.String(512)),
        sa.Column("last_login_at", sa.BigInteger),
        sa.Column("hidden", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("revision", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("users", column)
    op.create_index("ix_users_revision", "users", ["revision"])
    op.create_index("ix_users_subject", "users", ["issuer", "subject"], unique=True)


def _widen_keys() -> None:
    with op.batch_alter_table("api_keys") as keys:
        keys.alter_column("project_id", existing_type=sa.String(64), nullable=True)
        keys.add_column(sa.Column("kind", sa.String(16), nullable=False, server_default=sa.text("'project'")))
        keys.add_column(sa.Column("allowed_models", sa.Text))
        keys.add_column(sa.Column("allowed_sources", sa.Text))
        keys.create_index("ix_api_keys_project_id", ["project_id"])


def _organization() -> sa.Column[str]:
    return sa.Column("organization_id", sa.String(64), sa.ForeignKey("organizations.id"), nullable=False)


def _members() -> None:
    op.create_table(
        "organization_users",
        sa.Column("organization_id", sa.String(64), sa.ForeignKey("organizations.id"), primary_key=True),
        sa.Column("user_id", sa.String(64), sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("of_group", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_index("ix_organization_users_user_id", "organization_users", ["user_id"])
    op.create_table(
        "project_users",
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("user_id", sa.String(64), sa.ForeignKey("users.id"), primary_key=True),
        _organization(),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("of_group", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_index("ix_project_users_user_id", "project_users", ["user_id"])


def _roles() -> None:
    op.create_table(
        "custom_roles",
        sa.Column("id", sa.String(64), primary_key=True),
        _organization(),
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id")),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_custom_roles_name", "custom_roles", ["organization_id", "name"])
    op.create_table(
        "group_roles",
        sa.Column("id", sa.String(64), primary_key=True),
        _organization(),
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.Column("group_name", sa.String(256), nullable=False),
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id")),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_group_roles_group", "group_roles", ["issuer", "group_name"])


def _invites() -> None:
    op.create_table(
        "invites",
        sa.Column("id", sa.String(64), primary_key=True),
        _organization(),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("projects", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("invited_by", sa.String(64), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("accepted_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
    )
    op.create_index("ix_invites_email", "invites", ["email"])
    op.create_index("ix_invites_organization_id", "invites", ["organization_id"])


def _audit() -> None:
    op.create_table(
        "audit_log",
        sa.Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64)),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("ix_audit_log_organization", "audit_log", ["organization_id", "sequence"])
    op.create_table(
        "audit_heads",
        sa.Column("organization_id", sa.String(64), primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
    )


def _join_those_there() -> None:
    """Who made keys before there were memberships owned the installation; they go on owning what they used.

    A key that carried all there was carries all there is: the administrator's first one must be able to let others in.
    """
    now = int(time.time())
    all_now = " ".join(sorted([*_ALL_BEFORE.split(), *_MORE.split()]))
    widen = sa.text("UPDATE api_keys SET scopes = :now WHERE scopes = :before")
    op.execute(widen.bindparams(now=all_now, before=_ALL_BEFORE))
    op.execute(
        sa.text(
            "INSERT INTO organization_users (organization_id, user_id, role, created_at) "
            "SELECT DISTINCT organization_id, user_id, 'owner', CAST(:now AS BIGINT) FROM api_keys"
        ).bindparams(now=now)
    )
    op.execute(
        sa.text(
            "INSERT INTO project_users (project_id, user_id, organization_id, role, created_at) "
            "SELECT DISTINCT project_id, user_id, organization_id, 'owner', CAST(:now AS BIGINT) FROM api_keys"
        ).bindparams(now=now)
    )
