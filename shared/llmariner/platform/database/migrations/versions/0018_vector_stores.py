"""Vector stores, their files, batches of files and chunks."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_LIVE_FILES = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    _create_stores()
    _create_files()
    _create_chunks()


def downgrade() -> None:
    op.drop_table("vector_store_chunks")
    op.drop_table("vector_store_files")
    op.drop_table("vector_store_file_batches")
    op.drop_table("vector_stores")


def _owner() -> list[sa.Column[str]]:
    return [
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
    ]


def _create_stores() -> None:
    op.create_table(
        "vector_stores",
        *_owner(),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("unique_name", sa.String(256)),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("expires_after_days", sa.Integer),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_active_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("expired_at", sa.BigInteger),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("embedding_model", sa.String(256), nullable=False),
        sa.Column("dimension", sa.Integer),
    )
    op.create_index("ix_vector_stores_project", "vector_stores", ["project_id", "id"])
    op.create_index("ix_vector_stores_unique_name", "vector_stores", ["project_id", "unique_name"], unique=True)
    op.create_index("ix_vector_stores_name", "vector_stores", ["project_id", "name"])
    op.create_index("ix_vector_stores_expires_at", "vector_stores", ["expires_at"])
    op.create_index("ix_vector_stores_deleted_at", "vector_stores", ["deleted_at"])


def _create_files() -> None:
    op.create_table(
        "vector_store_file_batches",
        *_owner(),
        sa.Column("vector_store_id", sa.String(64), sa.ForeignKey("vector_stores.id"), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("cancelled_at", sa.BigInteger),
    )
    op.create_index("ix_vector_store_file_batches_store", "vector_store_file_batches", ["vector_store_id", "id"])
    op.create_table(
        "vector_store_files",
        *_owner(),
        sa.Column("vector_store_id", sa.String(64), sa.ForeignKey("vector_stores.id"), nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("batch_id", sa.String(64), sa.ForeignKey("vector_store_file_batches.id")),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(32)),
        sa.Column("error_message", sa.Text),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("chunking_strategy", sa.Text, nullable=False),
        sa.Column("usage_bytes", sa.BigInteger, nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("next_chunk", sa.Integer, nullable=False),
        sa.Column("chunk_count", sa.Integer),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("retry_at", sa.Float),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
    )
    op.create_index(
        "ix_vector_store_files_file",
        "vector_store_files",
        ["vector_store_id", "file_id"],
        unique=True,
        sqlite_where=_LIVE_FILES,
        postgresql_where=_LIVE_FILES,
    )
    counted = ["vector_store_id", "deleted_at", "status", "usage_bytes"]
    op.create_index("ix_vector_store_files_store", "vector_store_files", ["vector_store_id", "id"])
    op.create_index("ix_vector_store_files_counts", "vector_store_files", counted)
    op.create_index("ix_vector_store_files_batch", "vector_store_files", ["batch_id", "id"])
    op.create_index("ix_vector_store_files_file_id", "vector_store_files", ["file_id"])
    op.create_index("ix_vector_store_files_status", "vector_store_files", ["status", "retry_at"])
    op.create_index("ix_vector_store_files_deleted_at", "vector_store_files", ["deleted_at"])


def _create_chunks() -> None:
    op.create_table(
        "vector_store_chunks",
        *_owner(),
        sa.Column("vector_store_id", sa.String(64), nullable=False),
        sa.Column(
            "vector_store_file_id",
            sa.String(64),
            sa.ForeignKey("vector_store_files.id"),
            nullable=False,
        ),
        sa.Column("chunk_index", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("page", sa.Integer),
        sa.Column("start_offset", sa.BigInteger, nullable=False),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
        sa.Column("headings", sa.Text, nullable=False),
        sa.Column("indexed", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_index(
        "ix_vector_store_chunks_file", "vector_store_chunks", ["vector_store_file_id", "chunk_index"], unique=True
    )
