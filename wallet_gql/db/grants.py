"""What the serving role may do, table by table: read and append, and no more; of keys, read."""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, inspect, text

RIGHTS: Final = {
    "ledger": "SELECT, INSERT",
    "clock_offset": "SELECT, INSERT",
    "sweep": "SELECT, INSERT",
    "asset": "SELECT, INSERT",
    "asset_setting": "SELECT, INSERT",
    # A row lock needs the UPDATE right on a column; the guard trigger refuses the update itself.
    "wallet": "SELECT, INSERT, UPDATE (opened_at)",
    "wallet_state": "SELECT, INSERT",
    "account": "SELECT, INSERT",
    "transaction_shape": "SELECT",
    "transaction": "SELECT, INSERT",
    "transaction_note": "SELECT, INSERT",
    "receipt": "SELECT, INSERT",
    "entry": "SELECT, INSERT",
    "reversal": "SELECT, INSERT",
    "lot": "SELECT, INSERT",
    "lot_step": "SELECT, INSERT",
    "hold": "SELECT, INSERT",
    "hold_step": "SELECT, INSERT",
    "idempotency_key": "SELECT, INSERT",
    "issuance": "SELECT, INSERT",
    "limit_rule": "SELECT, INSERT",
    # It knows keys, and notes when they are used; it makes none.
    "api_key": "SELECT, UPDATE (last_used_at)",
    "alembic_version": "SELECT",
}

WRITTEN_BY_MIGRATIONS: Final = frozenset(
    table for table, rights in RIGHTS.items() if rights == "SELECT" and table != "alembic_version"
)
"""Tables of the ledger that the serving role only reads."""


# Whether whoever connects is the database's owner, and what everybody may still do in it.
_DATABASE: Final = text("""
SELECT quote_ident(datname), pg_has_role(datdba, 'USAGE'),
       has_database_privilege('public', oid, 'CONNECT') OR has_database_privilege('public', oid, 'TEMPORARY')
  FROM pg_database WHERE datname = current_database()
""")


def close_statements(connection: Connection, server_role: str | None) -> Iterator[str]:
    """Yield what keeps everybody else out of the database: nobody connects, or makes temporary tables, unasked.

    Whoever migrates without owning the database cannot say so: its operator does.
    """
    name, is_owner, is_wide = connection.execute(_DATABASE).one()
    if is_owner and is_wide:
        yield f"REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC"
        if server_role is not None:
            quote = connection.dialect.identifier_preparer.quote
            yield f"GRANT CONNECT ON DATABASE {name} TO {quote(server_role)}"


def grant_statements(connection: Connection, server_role: str | None) -> Iterator[str]:
    """Yield what gives the serving role its rights on the tables that there are.

    Where the service connects as the tables' owner there is nothing to grant.
    """
    if server_role is None or connection.execute(text("SELECT current_user")).scalar() == server_role:
        return
    quote = connection.dialect.identifier_preparer.quote
    existing = set(inspect(connection).get_table_names())
    if existing.isdisjoint(RIGHTS.keys() - {"alembic_version"}):
        return
    for table, rights in RIGHTS.items():
        if table in existing:
            yield f"GRANT {rights} ON {quote(table)} TO {quote(server_role)}"
