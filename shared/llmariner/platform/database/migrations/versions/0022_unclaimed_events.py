"""Events of files of vector stores that nobody acted on, and attributes that the index lacks."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vector_store_files", sa.Column("unclaimed_events", sa.Integer))
    op.add_column("vector_store_files", sa.Column("attributes_changed_at", sa.Float))
    changed = sa.text("attributes_changed_at IS NOT NULL")
    columns = ["project_id", "attributes_changed_at"]
    op.create_index(
        "ix_vector_store_files_attributes",
        "vector_store_files",
        columns,
        sqlite_where=changed,
        postgresql_where=changed,
    )


def downgrade() -> None:
    op.drop_index("ix_vector_store_files_attributes", "vector_store_files")
    for column in ("attributes_changed_at", "unclaimed_events"):
        op.drop_column("vector_store_files", column)
