"""API keys: what machines say who they are with.

`api_key` is outside the ledger: a row may be changed, by the tables' owner alone. The serving role reads it, and notes
when a key was last used; it can make none, and give none back that was revoked.

It runs beside servers of the version before, which know no keys.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("mode", sa.SmallInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", ARRAY(sa.Text()), nullable=False),
        sa.Column("owner_prefix", sa.Text(), server_default="", nullable=False),
        sa.Column("rate_burst", sa.Integer()),
        sa.Column("rate_per_second", sa.Integer()),
        sa.Column("max_amount", sa.Numeric()),
        sa.Column("assets", ARRAY(sa.Text())),
        sa.Column("daily_issuance", sa.Numeric()),
        sa.Column("created_at", TIMESTAMP, server_default=sa.text("wallet_now()"), nullable=False),
        sa.Column("expires_at", TIMESTAMP),
        sa.Column("revoked_at", TIMESTAMP),
        sa.Column("last_used_at", TIMESTAMP),
        sa.PrimaryKeyConstraint("id", name="api_key_pkey"),
        sa.CheckConstraint("id ~ '^[0-9A-Za-z]{8}$'", name=op.f("api_key_id_check")),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 100", name=op.f("api_key_name_check")),
        sa.CheckConstraint("mode IN (1, 2)", name=op.f("api_key_mode_check")),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("api_key_hash_check")),
        sa.CheckConstraint("cardinality(scopes) BETWEEN 1 AND 100", name=op.f("api_key_scopes_check")),
        sa.CheckConstraint("length(owner_prefix) <= 128", name=op.f("api_key_owner_prefix_check")),
        sa.CheckConstraint("num_nulls(rate_burst, rate_per_second) IN (0, 2)", name=op.f("api_key_rate_check")),
        sa.CheckConstraint("rate_burst > 0", name=op.f("api_key_rate_burst_check")),
        sa.CheckConstraint("rate_per_second > 0", name=op.f("api_key_rate_per_second_check")),
        sa.CheckConstraint("max_amount > 0", name=op.f("api_key_max_amount_check")),
        sa.CheckConstraint("daily_issuance > 0", name=op.f("api_key_daily_issuance_check")),
        sa.CheckConstraint("cardinality(assets) BETWEEN 1 AND 1000", name=op.f("api_key_assets_check")),
    )


def downgrade() -> None:
    op.execute("LOCK TABLE api_key IN ACCESS EXCLUSIVE MODE")
    if op.get_bind().execute(sa.text("SELECT EXISTS (SELECT FROM api_key)")).scalar():
        raise RuntimeError("Table api_key has rows that the version before cannot read, so it stays as it is.")
    op.drop_table("api_key")
