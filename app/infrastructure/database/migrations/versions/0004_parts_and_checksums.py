"""Uploads in parts, and bodies whose checksum is still being compared."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("uploads") as uploads:
        uploads.alter_column("session_id", existing_type=sa.String(32), nullable=True)
        uploads.add_column(sa.Column("kind", sa.Text(), nullable=False, server_default="file"))
        uploads.add_column(sa.Column("concat", sa.Text()))
        uploads.add_column(sa.Column("parts", sa.JSON()))
        uploads.add_column(sa.Column("parts_digest", sa.String(64)))
        uploads.add_column(sa.Column("verified_offset", sa.BigInteger()))
        uploads.create_index("ix_uploads_parts_digest", ["parts_digest"])


def downgrade() -> None:
    op.execute("DELETE FROM uploads WHERE session_id IS NULL")
    with op.batch_alter_table("uploads") as uploads:
        uploads.drop_index("ix_uploads_parts_digest")
        uploads.drop_column("verified_offset")
        uploads.drop_column("parts_digest")
        uploads.drop_column("parts")
        uploads.drop_column("concat")
        uploads.drop_column("kind")
        uploads.alter_column("session_id", existing_type=sa.String(32), nullable=False)
