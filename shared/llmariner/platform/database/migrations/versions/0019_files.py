"""Files, their contents, and what they count against the quotas of projects."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_contents",
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_file_contents")),
        sa.UniqueConstraint("project_id", "sha256", name=op.f("uq_file_contents_project_id")),
    )
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("filename", sa.String(256), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("content_key", sa.String(128)),
        sa.Column("object_path", sa.String(1024)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.ForeignKeyConstraint(
            ["content_key"], ["file_contents.key"], name=op.f("fk_files_content_key_file_contents")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("ix_files_content_key", "files", ["content_key"])
    op.create_index("ix_files_project_id", "files", ["project_id", "id"])
    op.create_index("ix_files_purpose", "files", ["project_id", "purpose", "id"])
    op.create_index("ix_files_expires_at", "files", ["expires_at", "id"])
    op.create_table(
        "file_usage",
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_file_usage")),
    )


def downgrade() -> None:
    op.drop_table("file_usage")
    op.drop_table("files")
    op.drop_table("file_contents")
