"""Whether the end of a batch slides with use, or stays where its client put it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    yes = sa.true()  # nobody could put it anywhere before
    op.add_column("batches", sa.Column("slides", sa.Boolean(), nullable=False, server_default=yes))


def downgrade() -> None:
    op.drop_column("batches", "slides")
