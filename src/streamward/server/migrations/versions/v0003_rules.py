"""Decisions name the rules of the policy that a text breaks."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; rows of before have none."""
    op.add_column("decisions", sa.Column("rules", sa.JSON))
