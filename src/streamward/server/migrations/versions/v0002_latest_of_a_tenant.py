"""The latest decisions of a tenant are found by an index, where all of them were sorted each time."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Put one index in the place of another."""
    op.create_index("ix_decisions_tenant_id", "decisions", ["tenant", "id"], if_not_exists=True)
    op.drop_index("ix_decisions_tenant", "decisions", if_exists=True)
