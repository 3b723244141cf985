"""One-time outputs and their delivery, idempotency keys, how fast jobs went, how long inputs stay."""

import sqlalchemy as sa
from alembic import op

from app.infrastructure.database.columns import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_idempotency_keys()
    _create_job_rates()
    for table in ("sessions", "batches"):
        op.add_column(table, sa.Column("keep_inputs_hours", sa.Double(), nullable=True))
    for table in ("jobs", "outputs"):
        no = sa.false()  # what was there before is kept for its retention
        op.add_column(table, sa.Column("one_time", sa.Boolean(), nullable=False, server_default=no))
    op.add_column("outputs", sa.Column("delivered_at", UtcDateTime(), nullable=True))
    op.create_index("ix_outputs_expires_at", "outputs", ["expires_at"])
    op.create_index("ix_outputs_status_delivered_at", "outputs", ["status", "delivered_at"])
    op.create_index("ix_tombstones_deleted_at", "tombstones", ["deleted_at"])
    _create_delivered_spans()


def downgrade() -> None:
    _say_it_in_older_words()
    op.drop_table("delivered_spans")
    op.drop_index("ix_tombstones_deleted_at", "tombstones")
    op.drop_index("ix_outputs_status_delivered_at", "outputs")
    op.drop_index("ix_outputs_expires_at", "outputs")
    for table, column in (
        ("outputs", "delivered_at"),
        ("outputs", "one_time"),
        ("jobs", "one_time"),
        ("batches", "keep_inputs_hours"),
        ("sessions", "keep_inputs_hours"),
    ):
        op.drop_column(table, column)
    op.drop_table("job_rates")
    op.drop_table("idempotency_keys")


def _say_it_in_older_words() -> None:
    """Leave no word that the version before cannot read; what was delivered is kept after all."""
    op.execute("UPDATE outputs SET status = 'available' WHERE status = 'delivered'")
    op.execute(
        "UPDATE tombstones SET reason = 'retention_completed'"
        " WHERE reason IN ('delivered', 'output_expired')"
    )
    op.execute("DELETE FROM sweep_reports WHERE sweep IN ('delivered_outputs', 'old_records')")


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("thing_id", sa.String(length=32), nullable=False),
        sa.Column("was_new", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "scope", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def _create_job_rates() -> None:
    op.create_table(
        "job_rates",
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("measured_at", UtcDateTime(), nullable=False),
        sa.Column("seconds_per_unit", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("operation", "measured_at", name="pk_job_rates"),
    )


def _create_delivered_spans() -> None:
    op.create_table(
        "delivered_spans",
        sa.Column("output_id", sa.String(length=32), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("span_start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("span_end", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("span_end > span_start", name=op.f("ck_delivered_spans_not_empty")),
        sa.ForeignKeyConstraint(
            ["output_id"], ["outputs.id"], name="fk_delivered_spans_output_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("output_id", "principal", "span_start", name="pk_delivered_spans"),
    )
