"""Requests under way whose answer is a file, and the name that a job's output is to have."""

import sqlalchemy as sa
from alembic import op

from app.infrastructure.database.columns import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("session_id", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("is_over", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_requests"),
    )
    op.create_index("ix_requests_job_id", "requests", ["job_id"])
    op.create_index("ix_requests_created_at_id", "requests", ["created_at", "id"])
    op.add_column("jobs", sa.Column("output_name", sa.Text()))


def downgrade() -> None:
    # A word that the version before cannot read.
    op.execute("UPDATE tombstones SET reason = 'job_deleted' WHERE reason = 'request_ended'")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("output_name")
    op.drop_table("requests")
