"""Clips that were normalised once and are kept for the next job that needs them."""

import sqlalchemy as sa
from alembic import op

from app.infrastructure.database.columns import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "kept_clips",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("used_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_kept_clips"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_kept_clips_job_id"),
        sa.UniqueConstraint("owner", "key", name="uq_kept_clips_owner_key"),
    )
    op.create_index("ix_kept_clips_job_id", "kept_clips", ["job_id"])
    op.create_index("ix_kept_clips_used_at_id", "kept_clips", ["used_at", "id"])


def downgrade() -> None:
    # A word that the version before cannot read. The clips' files stay: it has no name for them.
    op.execute("DELETE FROM sweep_reports WHERE sweep = 'kept_clips'")
    op.drop_table("kept_clips")
