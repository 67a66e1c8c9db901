"""Guards and laws hold for replication roles too: they fire always.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("ledger", "asset", "wallet", "account", "transaction", "entry", "idempotency_key")
TRIGGERS = (*((table, "refuse_change") for table in TABLES), ("transaction", "transaction_law"), ("entry", "entry_law"))


def upgrade() -> None:
    # Otherwise a session that sets session_replication_role = replica is held to none of them.
    for table, trigger in TRIGGERS:
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def downgrade() -> None:
    for table, trigger in TRIGGERS:
        op.execute(f"ALTER TABLE {table} ENABLE TRIGGER {trigger}")
