"""What keys were answered with, read under their wallets' locks.

Without the lock "nothing is decided" would be a guess: what a unit of work under way has posted cannot be seen yet.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

import orjson
from asyncpg import Connection

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.postings import KeyOutcome, Refused
from wallet_gql.domain.refusals import OutcomeCode, facts_of
from wallet_gql.domain.wallets import Balance, OwnerName
from wallet_gql.ledger.columns import Smallint, Text, arrays, select, unnest
from wallet_gql.ledger.heads import KeyName
from wallet_gql.ledger.holds import read_holds
from wallet_gql.ledger.items import WalletBusy
from wallet_gql.ledger.locks import lock_free_wallets, lock_wallets
from wallet_gql.ledger.lookups import one_row
from wallet_gql.ledger.reads import WalletAsset, read_balances, read_transactions_by_key

_NOT_REFUSED: Final = {
    OutcomeCode.POSTED, OutcomeCode.HELD, OutcomeCode.NOTHING, OutcomeCode.CHANGED, OutcomeCode.LIMITS_SET,
}  # fmt: skip


class _Kept(NamedTuple):
    """What is kept under a key, and the asset that a refusal was in, None where it was not kept with it."""

    n: int
    outcome: Smallint
    details: Text | None
    asset_id: Smallint | None
    asset_code: Text | None
    asset_name: Text | None
    asset_scale: Smallint | None

    @property
    def names_hold(self) -> bool:
        """Whether it was answered with a hold."""
        return self.outcome == OutcomeCode.HELD

    @property
    def is_refused(self) -> bool:
        """Whether it was answered with a refusal."""
        return self.outcome not in _NOT_REFUSED

    def hold_name(self, shard: int) -> HoldName:
        """Return what names the hold."""
        assert self.details is not None
        return HoldName(shard, UUID(orjson.loads(self.details)["hold_id"]))

    @property
    def asset(self) -> Asset | None:
        if self.asset_id is None:
            return None
        assert self.asset_code is not None
        assert self.asset_name is not None
        assert self.asset_scale is not None
        return Asset(self.asset_id, self.asset_code, self.asset_name, self.asset_scale)


_KEYS: Final = f"""
SELECT {
    select(
        _Kept,
        n="wanted.n",
        outcome="k.outcome",
        details="k.details::text",
        asset_id="s.id",
        asset_code="s.code",
        asset_name="s.name",
        asset_scale="s.scale",
    )
}
  FROM {unnest(KeyName, "wanted", numbered=True)}
 CROSS JOIN {
    one_row("idempotency_key", "k", by="key", shard="wanted.shard", wallet_id="wanted.wallet_id", key="wanted.key")
}
  LEFT JOIN {one_row("asset", "s", by="id", id="(k.details ->> 'asset_id')::smallint")} ON true
"""

OwnersKey: TypeAlias = tuple[OwnerName, UUID]
"""What names an idempotency key to its owner."""


async def read_outcomes(
    connection: Connection, keys: Sequence[OwnersKey], *, wait: bool
) -> list[KeyOutcome | WalletBusy | None]:
    """Return what each owner's key was answered with, in order; None where the owner has no wallet.

    Must run inside a transaction, and the locks stand until it ends. Without `wait`, keys of a wallet that somebody
    else has locked are `WalletBusy`. Two statements, up to three more where something was posted, held or refused.
    """
    names = [owner.wallet_name for owner, _ in keys]
    wallets, busy = (await lock_wallets(connection, names), ()) if wait else await lock_free_wallets(connection, names)
    outcomes: list[KeyOutcome | WalletBusy | None] = [WalletBusy() if name in busy else None for name in names]
    places = [place for place, name in enumerate(names) if name in wallets]
    wanted = [KeyName(names[place].shard, wallets[names[place]].id, keys[place][1]) for place in places]
    for place in places:
        outcomes[place] = KeyOutcome(None)
    kept = {
        places[each.n - 1]: each for each in map(_Kept._make, await connection.fetch(_KEYS, *arrays(KeyName, wanted)))
    }
    for place, each in kept.items():
        outcomes[place] = KeyOutcome(OutcomeCode(each.outcome))
    if posted := [place for place, each in kept.items() if each.outcome == OutcomeCode.POSTED]:
        views = await read_transactions_by_key(connection, [keys[place] for place in posted])
        for place, view in zip(posted, views, strict=True):
            outcomes[place] = KeyOutcome(OutcomeCode.POSTED, transaction=view)
    if held := {place: each.hold_name(names[place].shard) for place, each in kept.items() if each.names_hold}:
        for place, hold in zip(held, await read_holds(connection, list(held.values())), strict=True):
            outcomes[place] = KeyOutcome(OutcomeCode.HELD, hold=hold)
    refused = {
        place: WalletAsset(wallets[names[place]], each.asset)
        for place, each in kept.items()
        if each.is_refused and each.asset is not None
    }
    if refused:
        for place, balance in zip(refused, await read_balances(connection, list(refused.values())), strict=True):
            outcomes[place] = _refused(kept[place], balance)
    return outcomes


def _refused(kept: _Kept, balance: Balance) -> KeyOutcome:
    assert kept.details is not None
    code = OutcomeCode(kept.outcome)
    facts = facts_of(code, orjson.loads(kept.details), balance.asset)
    return KeyOutcome(code, refused=Refused(facts, balance, already_processed=True))
