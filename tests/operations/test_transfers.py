"""Transfers: every outcome, alone and where another one would apply, too; and what both owners have of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import pytest
from batches import added, new_owner_in
from factories import balance, new_owner, new_owner_id, post
from tables import count_rows

from wallet_gql.domain.assets import Asset, TransferPolicy
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX, AmountFault
from wallet_gql.domain.postings import (
    AmountInvalid,
    AssetMissing,
    KeyOutcome,
    KeyReused,
    Posted,
    PostingRequest,
    ReceiverIsSender,
    Refused,
    TransactionName,
    TransactionType,
    TransactionView,
    WalletMissing,
)
from wallet_gql.domain.refusals import (
    Facts,
    InsufficientBalance,
    OutcomeCode,
    ReceiverCause,
    ReceiverRefused,
    TransferForbidden,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import Balance, OwnerName
from wallet_gql.ledger.posting import post_batch
from wallet_gql.ledger.reads import PageRequest, WalletAsset
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.transfers import TransferInput, TransferOutcome, transfer
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.operations.wallets import open_wallet

TOO_LARGE: Final = POSTING_MINOR_MAX + 1
TOO_LONG: Final = "x" * 501

# The shards of sender and receiver.
SHARDS = pytest.mark.parametrize("shards", [(0, 0), (0, 2), (0, 1), (1, 0)], ids=lambda shards: f"{shards}")


@pytest.fixture
async def gifts(ledger: Ledger) -> AsyncIterator[Asset]:
    """An asset whose policy the test may set."""
    asset = await add_asset(ledger, "GIFTS", "Gifts", 0)
    yield asset
    await set_asset(ledger, "GIFTS", TransferPolicy.ALL)


@dataclass(frozen=True)
class Scene:
    """Two wallets; 10 were transferred from one to the other and 5 spent, and what both hold now."""

    ledger: Ledger
    gifts: Asset
    sender: str
    receiver: str
    first: TransferInput
    posted: Posted
    spend_key: Any
    now: Balance

    def fresh(self, amount: int | str = 1, **more: Any) -> TransferInput:
        """A request under a key of its own."""
        return replace(TransferInput(self.sender, self.receiver, "GIFTS", Decimal(amount), uuid4()), **more)

    def again(self, **changes: Any) -> TransferInput:
        """The first request again, but for the changes."""
        if "amount" in changes:
            changes["amount"] = Decimal(changes["amount"])
        return replace(self.first, **changes)


async def position(ledger: Ledger, owner: str, asset: Asset) -> Balance:
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    found = await ledger.reads.owners_balances.load((name, asset))
    assert found is not None
    return found


async def history(ledger: Ledger, owner: str, asset: Asset) -> list[TransactionView]:
    wallet = (await position(ledger, owner, asset)).wallet
    return (await ledger.reads.pages.load(PageRequest(WalletAsset(wallet, asset), first=100))).transactions


async def fill(ledger: Ledger, owner: str, asset: Asset, room: int = 0) -> None:
    """Top an owner up to the most that a wallet may hold, but for some room."""
    left = BALANCE_MINOR_MAX - room - (await position(ledger, owner, asset)).amount_minor
    whole, rest = divmod(left, POSTING_MINOR_MAX)
    shard = shard_of(owner, ledger.shard_count)
    async with unit_of_work(ledger.engine) as connection:
        requests = [
            PostingRequest(shard, owner, TransactionType.TOP_UP, asset, amount, uuid4())
            for amount in [POSTING_MINOR_MAX] * whole + [rest] * bool(rest)
        ]
        await post_batch(connection, requests, ledger.slot)


async def set_scene(ledger: Ledger, gifts: Asset, state: str) -> Scene:
    """Make two wallets; then the asset is "forbidden", the sender is "poor", the receiver is "full", or any of them."""
    sender, receiver = await new_owner_in(ledger, 0), await new_owner_in(ledger, 1)
    assert isinstance(await post(ledger, "top_up", sender, 100, asset_code="GIFTS"), Posted)
    first = TransferInput(sender, receiver, "GIFTS", Decimal(10), uuid4(), "for you", "gift-1")
    posted = await transfer(ledger, first)
    assert isinstance(posted, Posted)
    spend_key = uuid4()
    assert isinstance(await post(ledger, "spend", sender, 5, spend_key, asset_code="GIFTS"), Posted)
    if "full" in state:
        await fill(ledger, receiver, gifts)
    if "poor" in state:
        assert isinstance(await post(ledger, "spend", sender, 85, asset_code="GIFTS"), Posted)
    if "forbidden" in state:
        await set_asset(ledger, "GIFTS", TransferPolicy.NONE)
    return Scene(ledger, gifts, sender, receiver, first, posted, spend_key, await position(ledger, sender, gifts))


Expected = Callable[[Scene], TransferOutcome | str]


@dataclass(frozen=True)
class Case:
    """A request and its outcome; of a malformed request, the field at fault."""

    name: str
    ask: Callable[[Scene], TransferInput]
    expected: Expected
    state: str = "usual"
    is_kept: bool = False


def bad(field: str) -> Expected:
    return lambda _: field


def no_asset(code: str) -> Expected:
    return lambda _: AssetMissing(code)


def no_amount(fault: str) -> Expected:
    return lambda scene: AmountInvalid(AmountFault[fault], scene.gifts)


def no_wallet(owner_id: str) -> Expected:
    return lambda _: WalletMissing(owner_id)


def itself(scene: Scene) -> TransferOutcome:
    return ReceiverIsSender(scene.sender)


def posted_before(scene: Scene) -> TransferOutcome:
    return Posted(scene.posted.transaction, scene.now, already_processed=True)


def key_reused(scene: Scene) -> TransferOutcome:
    return KeyReused(scene.first.idempotency_key)


def refused(facts: Callable[[Scene], Facts]) -> Expected:
    return lambda scene: Refused(facts(scene), scene.now, already_processed=False)


def forbidden(scene: Scene) -> Facts:
    return TransferForbidden(scene.gifts, TransferPolicy.NONE)


def short_by_one(scene: Scene) -> Facts:
    return InsufficientBalance(scene.gifts, scene.now.amount_minor, scene.now.amount_minor + 1)


def full(scene: Scene) -> Facts:
    return ReceiverRefused(scene.gifts, scene.receiver, ReceiverCause.FULL)


# In the order in which they win; a request with several faults shows which one does.
OUTCOMES: Final = (
    Case("sender empty", lambda s: s.fresh(from_owner_id=""), bad("fromOwnerId")),
    Case("sender of 129 characters", lambda s: s.fresh(from_owner_id="x" * 129), bad("fromOwnerId")),
    Case("sender with NUL", lambda s: s.fresh(from_owner_id="a\0b"), bad("fromOwnerId")),
    Case("sender with a lone surrogate", lambda s: s.fresh(from_owner_id="a\ud800"), bad("fromOwnerId")),
    Case("sender before a blank", lambda s: s.fresh(from_owner_id=f"{s.sender} "), bad("fromOwnerId")),
    Case("sender not in NFC", lambda s: s.fresh(from_owner_id="e\u0301"), bad("fromOwnerId")),
    Case("sender, then receiver's id", lambda s: s.fresh(from_owner_id="", to_owner_id=""), bad("fromOwnerId")),
    Case("sender, then key", lambda s: s.again(from_owner_id=f"{s.sender} "), bad("fromOwnerId")),
    Case("receiver empty", lambda s: s.fresh(to_owner_id=""), bad("toOwnerId")),
    Case("receiver of 129 characters", lambda s: s.fresh(to_owner_id="x" * 129), bad("toOwnerId")),
    Case("receiver with a tab", lambda s: s.fresh(to_owner_id="a\tb"), bad("toOwnerId")),
    Case("receiver after a blank", lambda s: s.fresh(to_owner_id=f" {s.receiver}"), bad("toOwnerId")),
    Case("receiver, then description", lambda s: s.fresh(to_owner_id="", description="\0"), bad("toOwnerId")),
    Case("receiver, then key", lambda s: s.again(to_owner_id=f" {s.receiver}"), bad("toOwnerId")),
    Case("description of 501 characters", lambda s: s.fresh(description=TOO_LONG), bad("description")),
    Case("description, then reference", lambda s: s.fresh(description="\0", reference="\0"), bad("description")),
    Case("reference of 501 characters", lambda s: s.fresh(reference=TOO_LONG), bad("reference")),
    Case("reference, then asset", lambda s: s.fresh(reference="\0", asset_code="NONE"), bad("reference")),
    Case("asset unknown", lambda s: s.fresh(asset_code="NONE"), no_asset("NONE")),
    Case("asset in lower case", lambda s: s.fresh(asset_code="gifts"), no_asset("gifts")),
    Case("asset, then amount", lambda s: s.fresh(0, asset_code="NONE"), no_asset("NONE")),
    Case("asset, then key", lambda s: s.again(asset_code="NONE"), no_asset("NONE")),
    Case("amount zero", lambda s: s.fresh(0), no_amount("NOT_POSITIVE")),
    Case("amount negative", lambda s: s.fresh(-1), no_amount("NOT_POSITIVE")),
    Case("amount too precise", lambda s: s.fresh("1.5"), no_amount("TOO_PRECISE")),
    Case("amount too large", lambda s: s.fresh(TOO_LARGE), no_amount("TOO_LARGE")),
    Case("amount, then self", lambda s: s.fresh(0, to_owner_id=s.sender), no_amount("NOT_POSITIVE")),
    Case("amount, then key", lambda s: s.again(amount=0), no_amount("NOT_POSITIVE")),
    Case("self", lambda s: s.fresh(to_owner_id=s.sender), itself),
    Case("self, then sender's wallet", lambda s: s.fresh(from_owner_id="nobody", to_owner_id="nobody"),
         lambda _: ReceiverIsSender("nobody")),
    Case("self, then key", lambda s: s.again(to_owner_id=s.sender), itself),
    Case("self, then policy", lambda s: s.fresh(to_owner_id=s.sender), itself, state="forbidden"),
    Case("sender's wallet missing", lambda s: s.fresh(from_owner_id="nobody"), no_wallet("nobody")),
    Case("sender's wallet, then key", lambda s: s.again(from_owner_id="nobody"), no_wallet("nobody")),
    Case("sender's wallet, then receiver's", lambda s: s.fresh(from_owner_id="nobody", to_owner_id="no one"),
         no_wallet("nobody")),
    Case("sender's wallet, then policy", lambda s: s.fresh(from_owner_id="nobody"), no_wallet("nobody"),
         state="forbidden"),
    Case("same request", lambda s: s.again(), posted_before),
    Case("same amount after a zero", lambda s: s.again(amount="010"), posted_before),
    Case("same request, then policy", lambda s: s.again(), posted_before, state="forbidden"),
    Case("same request, then balance", lambda s: s.again(), posted_before, state="poor"),
    Case("same request, then receiver", lambda s: s.again(), posted_before, state="full"),
    Case("key of another amount", lambda s: s.again(amount=11), key_reused),
    Case("key of another receiver", lambda s: s.again(to_owner_id=f"{s.receiver}2"), key_reused),
    Case("key of another asset", lambda s: s.again(asset_code="GOLD"), key_reused),
    Case("key of another description", lambda s: s.again(description="for me"), key_reused),
    Case("key of a description, sent without", lambda s: s.again(description=None), key_reused),
    Case("key of another reference", lambda s: s.again(reference="gift-2"), key_reused),
    Case("key of texts, sent crossed", lambda s: s.again(description="gift-1", reference="for you"), key_reused),
    Case("key of a spend", lambda s: s.fresh(5, idempotency_key=s.spend_key), lambda s: KeyReused(s.spend_key)),
    Case("key, then receiver's wallet", lambda s: s.again(to_owner_id="nobody"), key_reused),
    Case("key, then policy", lambda s: s.again(amount=11), key_reused, state="forbidden"),
    Case("key, then balance", lambda s: s.again(amount=11), key_reused, state="poor"),
    Case("key, then receiver", lambda s: s.again(amount=11), key_reused, state="full"),
    Case("receiver's wallet missing", lambda s: s.fresh(to_owner_id="nobody"), no_wallet("nobody")),
    Case("receiver's wallet in other case", lambda s: s.fresh(to_owner_id="Nobody"), no_wallet("Nobody")),
    Case("receiver's wallet, then policy", lambda s: s.fresh(to_owner_id="nobody"), no_wallet("nobody"),
         state="forbidden"),
    Case("receiver's wallet, then balance", lambda s: s.fresh(1, to_owner_id="nobody"), no_wallet("nobody"),
         state="poor"),
    Case("policy", lambda s: s.fresh(), refused(forbidden), state="forbidden", is_kept=True),
    Case("policy, then balance", lambda s: s.fresh(), refused(forbidden), state="forbidden poor", is_kept=True),
    Case("policy, then receiver", lambda s: s.fresh(), refused(forbidden), state="forbidden full", is_kept=True),
    Case("balance one too small", lambda s: s.fresh(s.now.amount_minor + 1), refused(short_by_one), is_kept=True),
    Case("balance empty", lambda s: s.fresh(1), refused(short_by_one), state="poor", is_kept=True),
    Case("balance, then receiver", lambda s: s.fresh(1), refused(short_by_one), state="poor full", is_kept=True),
    Case("receiver full", lambda s: s.fresh(1), refused(full), state="full", is_kept=True),
)  # fmt: skip


@pytest.mark.parametrize("case", OUTCOMES, ids=lambda case: case.name)
async def test_outcome(ledger: Ledger, gifts: Asset, case: Case) -> None:
    scene = await set_scene(ledger, gifts, case.state)
    theirs = await position(ledger, scene.receiver, gifts)
    before = await count_rows(ledger.settings)

    outcome: TransferOutcome | str
    try:
        outcome = await transfer(ledger, case.ask(scene))
    except BadUserInput as error:
        outcome = error.field

    assert outcome == case.expected(scene)
    assert await position(ledger, scene.sender, gifts) == scene.now
    assert await position(ledger, scene.receiver, gifts) == theirs
    assert await count_rows(ledger.settings) == before._replace(keys=before.keys + case.is_kept)


@SHARDS
async def test_transfer_moves_credits_once(ledger: Ledger, shards: tuple[int, int]) -> None:
    sender, receiver = [await new_owner_in(ledger, shard, gold=100) for shard in shards]
    gold = ledger.assets["GOLD"]
    before = await count_rows(ledger.settings)
    asked = TransferInput(sender, receiver, "GOLD", Decimal(40), uuid4(), "for you", "gift-1")

    outcome = await transfer(ledger, asked)

    assert isinstance(outcome, Posted)
    assert not outcome.already_processed
    assert await count_rows(ledger.settings) == added(before, transactions=2, keys=1)
    assert outcome.balance == await position(ledger, sender, gold)
    assert (await balance(ledger, sender), await balance(ledger, receiver)) == (60, 140)
    given, *_ = await history(ledger, sender, gold)
    got, *_ = await history(ledger, receiver, gold)
    assert given == outcome.transaction
    assert (given.type, got.type) == (TransactionType.TRANSFER_OUT, TransactionType.TRANSFER_IN)
    assert (given.amount_minor, got.amount_minor) == (-40, 40)
    assert (given.balance_after_minor, got.balance_after_minor) == (60, 140)
    assert (given.seq, got.seq) == (2, 2)
    assert (given.idempotency_key, got.idempotency_key) == (asked.idempotency_key, None)
    assert given.executed_at == got.executed_at
    for view in (given, got):
        assert (view.description, view.reference) == ("for you", "gift-1")
    # Each names the other, and the sender's names the whole.
    assert given.counterpart == TransactionName(got.shard, got.id)
    assert got.counterpart == TransactionName(given.shard, given.id)
    assert given.transfer_id == got.transfer_id == given.id != got.id
    others = [
        await ledger.reads.owners_of_transactions.load(TransactionName(each.shard, each.id)) for each in (got, given)
    ]
    assert others == [receiver, sender]


@SHARDS
async def test_retry_is_the_same_transfer(ledger: Ledger, shards: tuple[int, int]) -> None:
    sender, receiver = [await new_owner_in(ledger, shard, gold=100) for shard in shards]
    asked = TransferInput(sender, receiver, "GOLD", Decimal(40), uuid4())
    first = await transfer(ledger, asked)
    assert isinstance(first, Posted)
    await post(ledger, "top_up", sender, 7)
    before = await count_rows(ledger.settings)

    again = await transfer(ledger, asked)

    now = await position(ledger, sender, ledger.assets["GOLD"])
    assert again == Posted(first.transaction, now, already_processed=True)
    assert await count_rows(ledger.settings) == before
    assert (await balance(ledger, sender), await balance(ledger, receiver)) == (67, 140)


@SHARDS
async def test_key_tells_what_became_of_a_transfer(ledger: Ledger, gifts: Asset, shards: tuple[int, int]) -> None:
    sender, receiver = [await new_owner_in(ledger, shard) for shard in shards]
    await post(ledger, "top_up", sender, 100, asset_code="GIFTS")
    await fill(ledger, receiver, gifts, room=10)
    found = []

    async def send(amount: int) -> TransferOutcome:
        asked = TransferInput(sender, receiver, "GIFTS", Decimal(amount), uuid4())
        outcome = await transfer(ledger, asked)
        name = OwnerName(shard_of(sender, ledger.shard_count), sender)
        found.append(await ledger.outcomes.find(name, asked.idempotency_key))
        # It is the sender's key: to the receiver it says nothing.
        theirs = OwnerName(shard_of(receiver, ledger.shard_count), receiver)
        assert await ledger.outcomes.find(theirs, asked.idempotency_key) == KeyOutcome(None)
        return outcome

    posted, over, short = await send(10), await send(1), await send(91)
    await set_asset(ledger, "GIFTS", TransferPolicy.NONE)
    await send(1)

    assert isinstance(posted, Posted)
    assert isinstance(over, Refused)
    assert isinstance(short, Refused)
    now = await position(ledger, sender, gifts)
    assert found == [
        KeyOutcome(OutcomeCode.POSTED, posted.transaction),
        *(
            KeyOutcome(facts.code, refused=Refused(facts, now, already_processed=True))
            for facts in (
                ReceiverRefused(gifts, receiver, ReceiverCause.FULL),
                InsufficientBalance(gifts, 90, 91),
                TransferForbidden(gifts, TransferPolicy.NONE),
            )
        ),
    ]


@SHARDS
async def test_first_transfer_in_an_asset_opens_the_receivers_account(ledger: Ledger, shards: tuple[int, int]) -> None:
    sender, receiver = [await new_owner_in(ledger, shard) for shard in shards]
    asset = await add_asset(ledger, f"X{uuid4().hex[:12].upper()}", "New", 2)
    await post(ledger, "top_up", sender, "0.03", asset_code=asset.code)
    before = await count_rows(ledger.settings)

    outcome = await transfer(ledger, TransferInput(sender, receiver, asset.code, Decimal("0.02"), uuid4()))

    assert isinstance(outcome, Posted)
    theirs = await position(ledger, receiver, asset)
    assert (outcome.balance.amount_minor, theirs.amount_minor, theirs.seq) == (1, 2, 1)
    assert await count_rows(ledger.settings) == added(before, transactions=2, keys=1, accounts=1)


async def test_sender_that_never_used_the_asset_opens_no_account(ledger: Ledger) -> None:
    sender, receiver = await new_owner(ledger, gold=1), await new_owner(ledger, gold=1)
    diamond = ledger.assets["DIAMOND"]
    before = await count_rows(ledger.settings)

    outcome = await transfer(ledger, TransferInput(sender, receiver, "DIAMOND", Decimal(1), uuid4()))

    now = await position(ledger, sender, diamond)
    assert outcome == Refused(InsufficientBalance(diamond, 0, 1), now, already_processed=False)
    assert await count_rows(ledger.settings) == before._replace(keys=before.keys + 1)


@SHARDS
async def test_transfer_of_all_there_is_up_to_the_receivers_limit_passes(
    ledger: Ledger, gifts: Asset, shards: tuple[int, int]
) -> None:
    sender, receiver = [await new_owner_in(ledger, shard) for shard in shards]
    await post(ledger, "top_up", sender, 7, asset_code="GIFTS")
    await fill(ledger, receiver, gifts, room=7)

    outcome = await transfer(ledger, TransferInput(sender, receiver, "GIFTS", Decimal(7), uuid4()))

    assert isinstance(outcome, Posted)
    assert outcome.balance.amount_minor == 0
    assert (await position(ledger, receiver, gifts)).amount_minor == BALANCE_MINOR_MAX


async def undo(scene: Scene) -> None:
    """Make possible what was not: for whoever asks anew."""
    await set_asset(scene.ledger, "GIFTS", TransferPolicy.ALL)
    await post(scene.ledger, "top_up", scene.sender, 100, asset_code="GIFTS")
    await post(scene.ledger, "spend", scene.receiver, 10, asset_code="GIFTS")


@pytest.mark.parametrize(
    ("state", "facts"),
    [("forbidden", forbidden), ("poor", short_by_one), ("full", full)],
    ids=["forbidden", "poor", "full"],
)
async def test_refusal_is_kept(ledger: Ledger, gifts: Asset, state: str, facts: Callable[[Scene], Facts]) -> None:
    scene = await set_scene(ledger, gifts, state)
    asked = scene.fresh()
    assert await transfer(ledger, asked) == Refused(facts(scene), scene.now, already_processed=False)
    await undo(scene)
    before = await count_rows(ledger.settings)

    late = await transfer(ledger, asked)

    now = await position(ledger, scene.sender, gifts)
    assert late == Refused(facts(scene), now, already_processed=True)
    assert await transfer(ledger, replace(asked, amount=Decimal(2))) == KeyReused(asked.idempotency_key)
    assert await transfer(ledger, replace(asked, to_owner_id="nobody")) == KeyReused(asked.idempotency_key)
    assert await count_rows(ledger.settings) == before
    # A new attempt needs a new key.
    assert isinstance(await transfer(ledger, replace(asked, idempotency_key=uuid4())), Posted)


async def test_transfer_that_was_posted_replays_under_every_policy(ledger: Ledger, gifts: Asset) -> None:
    scene = await set_scene(ledger, gifts, "usual")
    for policy in (TransferPolicy.NONE, TransferPolicy.ALL, TransferPolicy.NONE):
        await set_asset(ledger, "GIFTS", policy)
        assert await transfer(ledger, scene.again()) == posted_before(scene)
        is_forbidden = isinstance(await transfer(ledger, scene.fresh()), Refused)
        assert is_forbidden is (policy is TransferPolicy.NONE)
        scene = replace(scene, now=await position(ledger, scene.sender, gifts))


async def test_policy_of_one_asset_is_not_anothers(ledger: Ledger, gifts: Asset) -> None:
    scene = await set_scene(ledger, gifts, "forbidden")
    await post(ledger, "top_up", scene.sender, 5)

    assert isinstance(await transfer(ledger, scene.fresh(asset_code="GOLD")), Posted)


@pytest.mark.parametrize("missing", ["from_owner_id", "to_owner_id"])
async def test_key_is_free_after_wallet_missing(ledger: Ledger, missing: str) -> None:
    owner, nobody = await new_owner(ledger, gold=10), new_owner_id()
    owners = {"from_owner_id": owner, "to_owner_id": owner, missing: nobody}
    asked = TransferInput(owners["from_owner_id"], owners["to_owner_id"], "GOLD", Decimal(3), uuid4())
    assert await transfer(ledger, asked) == WalletMissing(nobody)
    await open_wallet(ledger, nobody)
    await post(ledger, "top_up", nobody, 10)

    outcome = await transfer(ledger, asked)

    assert isinstance(outcome, Posted)
    assert not outcome.already_processed
    assert (await balance(ledger, owners["from_owner_id"]), await balance(ledger, owners["to_owner_id"])) == (7, 13)


async def test_one_key_sent_often_at_once_is_one_transfer(ledger: Ledger) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=100), await new_owner_in(ledger, 1)
    asked = TransferInput(sender, receiver, "GOLD", Decimal(3), uuid4())
    other = replace(asked, amount=Decimal(4))

    outcomes = await asyncio.gather(*(transfer(ledger, each) for each in [asked] * 10 + [other]))

    *same, reused = outcomes
    told = [outcome for outcome in same if isinstance(outcome, Posted)]
    assert len(told) == 10
    assert [outcome.already_processed for outcome in told] == [False] + [True] * 9
    assert len({outcome.transaction.id for outcome in told}) == 1
    assert reused == KeyReused(asked.idempotency_key)
    assert (await balance(ledger, sender), await balance(ledger, receiver)) == (97, 3)


async def test_last_credits_go_to_one_of_many(ledger: Ledger) -> None:
    sender = await new_owner_in(ledger, 0, gold=10)
    receivers = [await new_owner_in(ledger, n % 4) for n in range(8)]

    outcomes = await asyncio.gather(
        *(transfer(ledger, TransferInput(sender, each, "GOLD", Decimal(10), uuid4())) for each in receivers)
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Posted"] + ["Refused"] * 7
    assert sorted([await balance(ledger, each) for each in receivers]) == [0] * 7 + [10]
    assert await balance(ledger, sender) == 0
