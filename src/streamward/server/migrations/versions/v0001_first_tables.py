"""The tables of 0.1.0, which made them without keeping a revision: what is there stays as it is."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make what is missing."""
    _make_decisions()
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("policy", sa.String(200)),
        sa.Column("other_policies", sa.JSON, nullable=False),
        sa.Column("upstreams", sa.JSON),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("max_concurrent", sa.Integer),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        if_not_exists=True,
    )
    op.create_table(
        "usage",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("num_decisions", sa.BigInteger, nullable=False),
        sa.Column("num_stopped", sa.BigInteger, nullable=False),
        sa.Column("num_tokens", sa.BigInteger, nullable=False),
        sa.Column("num_chars", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "policy_versions",
        sa.Column("digest", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("first_used", sa.DateTime(timezone=True), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        if_not_exists=True,
    )
    for table, column in (
        ("decisions", "time"),
        ("decisions", "tenant"),
        ("decisions", "request_id"),
        ("decisions", "text_until"),
        ("api_keys", "tenant"),
        ("policy_versions", "name"),
    ):
        op.create_index(f"ix_{table}_{column}", table, [column], if_not_exists=True)


def _make_decisions() -> None:
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(80), nullable=False),
        sa.Column("stream_id", sa.String(80)),
        sa.Column("upstream", sa.String(64)),
        sa.Column("model", sa.String(200)),
        sa.Column("guard", sa.String(200), nullable=False),
        sa.Column("policy", sa.String(200), nullable=False),
        sa.Column("policy_version", sa.String(200), nullable=False),
        sa.Column("policy_digest", sa.String(16), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("side", sa.String(16)),
        sa.Column("risk_level", sa.String(16)),
        sa.Column("category", sa.String(64)),
        sa.Column("position", sa.Integer),
        sa.Column("error", sa.String(64)),
        sa.Column("prompt_risk_level", sa.String(16)),
        sa.Column("prompt_category", sa.String(64)),
        sa.Column("prompt_unsafe", sa.Float),
        sa.Column("prompt_controversial", sa.Float),
        sa.Column("response_risk_level", sa.String(16)),
        sa.Column("response_category", sa.String(64)),
        sa.Column("response_unsafe", sa.Float),
        sa.Column("response_controversial", sa.Float),
        sa.Column("refusal", sa.Boolean),
        sa.Column("flagged_start", sa.Integer),
        sa.Column("flagged_end", sa.Integer),
        sa.Column("num_tokens", sa.Integer, nullable=False),
        sa.Column("prompt_chars", sa.Integer),
        sa.Column("response_chars", sa.Integer),
        sa.Column("prompt_hash", sa.String(64)),
        sa.Column("response_hash", sa.String(64)),
        sa.Column("latency_ms", sa.Float, nullable=False),
        sa.Column("prompt_text", sa.Text),
        sa.Column("response_text", sa.Text),
        sa.Column("text_until", sa.DateTime(timezone=True)),
        sa.Column("details", sa.JSON),
        if_not_exists=True,
    )
