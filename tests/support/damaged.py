"""Books that tests damage: a small history, and what verification finds in it afterwards."""

from dataclasses import dataclass
from uuid import UUID

from asyncpg import Connection

from wallet_gql.domain.postings import TransactionView
from wallet_gql.domain.shards import shard_of
from wallet_gql.ledger.verify import Finding, verify_outside, verify_shard

SHARD = 1
SHARD_COUNT = 4

# What the two owners did, in GOLD but for the last of Alice's: amounts, and the balance after them.
ALICE = ((100, 100), (50, 150), (-30, 120), (100, 220))
BOB = ((10, 10), (10, 20))


def owners_of(shard: int) -> list[str]:
    return [name for name in (f"owner-{n}" for n in range(100)) if shard_of(name, SHARD_COUNT) == shard]


ALICE_ID, BOB_ID, *_ = owners_of(SHARD)


@dataclass(frozen=True)
class History:
    """What was posted: Alice's and Bob's in GOLD, Alice's in DIAMOND, and one refusal of Alice's."""

    alice: list[TransactionView]
    bob: list[TransactionView]
    diamond: TransactionView
    refused: UUID


class Books:
    """The books in a transaction that is rolled back, with the laws and guards switched off."""

    def __init__(self, connection: Connection, history: History, treasury: int) -> None:
        self.connection = connection
        self.history = history
        self.treasury = treasury
        self.wallet, self.account = history.alice[0].wallet_id, history.alice[0].account_id
        self.bob_wallet, self.bob_account = history.bob[0].wallet_id, history.bob[0].account_id

    async def execute(self, *statements: str) -> None:
        for statement in statements:
            await self.connection.execute(statement)

    async def findings(self) -> list[tuple[str, str, str]]:
        """Return what is found: the check, the row, the fault. All damage is in one shard."""
        found: list[Finding] = [finding async for finding in verify_outside(self.connection, SHARD_COUNT)]
        for shard in range(SHARD_COUNT):
            found += [finding async for finding in verify_shard(self.connection, shard, SHARD_COUNT)]
        assert {finding.shard for finding in found} <= {SHARD, None}
        return [(finding.check, finding.row, finding.fault) for finding in found]

    def entry(self, seq: int) -> str:
        return f"account {self.account} ({ALICE_ID}), seq {seq}"

    def key(self, view: TransactionView) -> str:
        return f"key {view.idempotency_key} of wallet {view.wallet_id}"

    def fingerprint_differs(self, view: TransactionView) -> tuple[str, str, str]:
        return "key", self.key(view), f"its fingerprint is not what transaction {view.id} gives"

    @property
    def refused_key(self) -> str:
        return f"key {self.history.refused} of wallet {self.wallet}"

    def not_held(self, balance: int) -> tuple[str, str, str]:
        return "refusal", self.refused_key, f"says refused on {balance}, which no account of its wallet held then"

    def unbalanced(self, view: TransactionView) -> tuple[str, str, str]:
        return "transaction", f"transaction {view.id}", "its legs do not sum to zero"
