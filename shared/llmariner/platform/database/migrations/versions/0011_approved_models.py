"""Which models an administrator chose engine arguments and a location for; keys of administrators may go on doing so."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SCOPE = "api.model.admin"


def upgrade() -> None:
    op.add_column("models", sa.Column("approved", sa.Boolean, nullable=False, server_default=sa.false()))
    # Those keys of owners of the default organization that could do everything: others are made anew where it is wanted.
    op.execute(
        sa.text(
            "UPDATE api_keys SET scopes = scopes || :added "
            "WHERE scopes LIKE '%api.organizations.write%' AND scopes LIKE '%api.model.write%' "
            "AND organization_id IN (SELECT id FROM organizations WHERE is_default) "
            "AND EXISTS (SELECT 1 FROM organization_users m WHERE m.user_id = api_keys.user_id "
            "AND m.organization_id = api_keys.organization_id AND m.role = 'owner')"
        ).bindparams(added=f" {_SCOPE}")
    )


def downgrade() -> None:
    op.execute(sa.text("UPDATE api_keys SET scopes = replace(scopes, :added, '')").bindparams(added=f" {_SCOPE}"))
    op.drop_column("models", "approved")
