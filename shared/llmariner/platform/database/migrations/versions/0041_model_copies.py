"""Copies of models in the object store: each model's files, and each content once, as chunks."""

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_copies",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("model_id", sa.String(256), nullable=False),
        sa.Column("model_created_at", sa.BigInteger, nullable=False),
        sa.Column("project_id", sa.String(64)),
        sa.Column("revision", sa.String(128)),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("held_until", sa.Float, nullable=False),
        sa.Column("touched_at", sa.Float, nullable=False),
        sa.Column("progressed_at", sa.Float, nullable=False),
        sa.Index("ix_model_copies_model", "model_id", "model_created_at", unique=True),
        sa.Index("ix_model_copies_project", "project_id", "touched_at"),
    )
    op.create_table(
        "model_copy_files",
        sa.Column("copy_id", sa.String(64), sa.ForeignKey("model_copies.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("path", sa.String(512), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("git_sha1", sa.String(40), nullable=False),
        sa.Column("md5", sa.String(32), nullable=False),
        sa.Column("version", sa.String(256), nullable=False),
        sa.Column("blob_id", sa.String(80), nullable=False),
        sa.Column("confirmed", sa.Boolean, nullable=False),
        sa.Index("ix_model_copy_files_blob_id", "blob_id"),
    )
    op.create_table(
        "model_blobs",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False),
        sa.Column("digest_state", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("mismatches", sa.Integer, nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("held_until", sa.Float, nullable=False),
        sa.Column("touched_at", sa.Float, nullable=False),
        sa.Index("ix_model_blobs_sha256", "sha256"),
        sa.Index("ix_model_blobs_touched_at", "touched_at"),
    )
    op.create_table(
        "model_blob_chunks",
        sa.Column("blob_id", sa.String(80), sa.ForeignKey("model_blobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("object_key", sa.String(256), nullable=False),
        sa.Index("ix_model_blob_chunks_object_key", "object_key"),
    )


def downgrade() -> None:
    for name in ("model_blob_chunks", "model_blobs", "model_copy_files", "model_copies"):
        op.drop_table(name)
