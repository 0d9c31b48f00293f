"""Keys that could do everything may start programs in running jobs too, which is a scope of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

_SCOPE = "api.batch.jobs.exec"


def upgrade() -> None:
    op.execute(
        sa.text(
            "UPDATE api_keys SET scopes = scopes || :added "
            "WHERE scopes LIKE '%api.organizations.write%' AND scopes LIKE '%api.batch.jobs.write%' "
            "AND scopes NOT LIKE '%api.batch.jobs.exec%'"
        ).bindparams(added=f" {_SCOPE}")
    )


def downgrade() -> None:
    op.execute(sa.text("UPDATE api_keys SET scopes = replace(scopes, :added, '')").bindparams(added=f" {_SCOPE}"))
