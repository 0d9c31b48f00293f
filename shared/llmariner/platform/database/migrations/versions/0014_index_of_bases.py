"""Models are found by their base: each status of an engine asks for the adapters that it serves."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_models_base_model_id", "models", ["base_model_id"])


def downgrade() -> None:
    op.drop_index("ix_models_base_model_id", "models")
