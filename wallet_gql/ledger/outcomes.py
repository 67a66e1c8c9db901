"""What keys were answered with, read under their wallets' locks.

Without the lock "nothing is decided" would be a guess: what a unit of work under way has posted cannot be seen yet.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from asyncpg import Connection

from wallet_gql.domain.model import Asset, KeyOutcome, OutcomeCode, Refused, WalletKind
from wallet_gql.ledger.locks import WalletName, lock_free_wallets, lock_wallets
from wallet_gql.ledger.posting import WalletBusy
from wallet_gql.ledger.reads import OwnerName, WalletAsset, read_balances, read_transactions_by_key

# Fenced as in `reads`: each look-up is by its whole key.
_KEYS: Final = """
SELECT wanted.n, k.outcome, (k.details ->> 'balance_before_minor')::bigint, (k.details ->> 'amount_minor')::bigint,
       s.id, s.code, s.name, s.scale
  FROM unnest($1::smallint[], $2::bigint[], $3::uuid[]) WITH ORDINALITY AS wanted(shard, wallet_id, key, n)
  JOIN LATERAL (
       SELECT k.outcome, k.details
         FROM idempotency_key k
        WHERE (k.shard, k.wallet_id, k.key) = (wanted.shard, wanted.wallet_id, wanted.key)
        LIMIT 1) AS k ON true
  LEFT JOIN LATERAL (
       SELECT * FROM asset s WHERE s.id = (k.details ->> 'asset_id')::smallint LIMIT 1) AS s ON true
"""

KeyName = tuple[OwnerName, UUID]


async def read_outcomes(
    connection: Connection, keys: Sequence[KeyName], *, wait: bool
) -> list[KeyOutcome | WalletBusy | None]:
    """Return what each owner's key was answered with, in order; None where the owner has no wallet.

    Must run inside a transaction, and the locks stand until it ends. Without `wait`, keys of a wallet that somebody
    else has locked are `WalletBusy`. Two statements, up to two more where something was posted or refused.
    """
    names = [WalletName(owner.shard, WalletKind.USER, owner.owner_id) for owner, _ in keys]
    wallets, busy = (await lock_wallets(connection, names), ()) if wait else await lock_free_wallets(connection, names)
    outcomes: list[KeyOutcome | WalletBusy | None] = [WalletBusy() if name in busy else None for name in names]
    places = [place for place, name in enumerate(names) if name in wallets]
    for place in places:
        outcomes[place] = KeyOutcome(None)
    rows = await connection.fetch(
        _KEYS,
        [names[place].shard for place in places],
        [wallets[names[place]].id for place in places],
        [keys[place][1] for place in places],
    )
    posted: list[int] = []
    refused: list[tuple[int, OutcomeCode, int, int, WalletAsset]] = []
    for n, number, before_minor, amount_minor, *asset in rows:
        place, code = places[n - 1], OutcomeCode(number)
        outcomes[place] = KeyOutcome(code)
        if code is OutcomeCode.POSTED:
            posted.append(place)
        elif asset[0] is not None:
            account = WalletAsset(wallets[names[place]], Asset(*asset))
            refused.append((place, code, before_minor, amount_minor, account))
    if posted:
        views = await read_transactions_by_key(connection, [keys[place] for place in posted])
        for place, view in zip(posted, views, strict=True):
            outcomes[place] = KeyOutcome(OutcomeCode.POSTED, transaction=view)
    if refused:
        balances = await read_balances(connection, [account for *_, account in refused])
        for (place, code, before_minor, amount_minor, _), balance in zip(refused, balances, strict=True):
            told = Refused(code, before_minor, amount_minor, balance, already_processed=True)
            outcomes[place] = KeyOutcome(code, refused=told)
    return outcomes
