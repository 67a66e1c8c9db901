"""Keep the planner's statistics of growing tables fresh: analyse after 2 % of new rows, not after 10 %.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Inserts also drive vacuum here: an append-only table has no dead rows, but its pages must become all-visible.
TABLES = ("wallet", "account", "transaction", "entry", "idempotency_key")
PARAMETERS = ("autovacuum_analyze_scale_factor", "autovacuum_vacuum_insert_scale_factor")


def upgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} SET ({', '.join(f'{parameter} = 0.02' for parameter in PARAMETERS)})")


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(PARAMETERS)})")
