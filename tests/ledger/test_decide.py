"""The decisions alone, without a database: every outcome, which one wins, and what it leaves in the batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import orjson
import pytest
from decisions import (
    BONUS,
    GOLD,
    IN,
    MICROSECOND,
    NOW,
    OUT,
    SPEND,
    TOP_UP,
    account,
    assert_refused,
    assert_unavailable,
    batch,
    decide_without_moving,
    kept,
    kept_rows,
    posted,
    posting,
    refused,
    same,
    transfer,
)

from wallet_gql.domain.assets import AssetSetting, TransferPolicy
from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.money import BALANCE_MINOR_MAX, TREASURY_MINOR_MAX
from wallet_gql.domain.postings import (
    POSTING_TYPES,
    KeyReused,
    Posted,
    Refused,
    TransactionName,
    TransactionType,
    WalletMissing,
)
from wallet_gql.domain.refusals import (
    BalanceLimitExceeded,
    Facts,
    InsufficientBalance,
    OutcomeCode,
    ReceiverCause,
    ReceiverRefused,
    TransferForbidden,
    details_of,
)
from wallet_gql.domain.wallets import Balance, WalletKind
from wallet_gql.ledger.batch import Batch, Item, TransferItem
from wallet_gql.ledger.decide import accounts_needed, decide
from wallet_gql.ledger.heads import Account
from wallet_gql.ledger.judge import HEAD_AHEAD_MAX
from wallet_gql.ledger.recall import recall
from wallet_gql.ledger.rows import EntryRow, TransactionRow


@dataclass
class Pair:
    """A sender with 100 in shard 1 and a receiver with 5 in shard 2, and clearing in both."""

    sender: Account
    clearing: Account
    receiver: Account
    receiver_clearing: Account

    def transfer(self, amount: int = 10, **more: Any) -> TransferItem:
        return transfer(self.sender, self.receiver, self.clearing, self.receiver_clearing, amount, **more)


@pytest.fixture
def pair() -> Pair:
    return Pair(
        account(1, 100), account(1, 30, WalletKind.CLEARING), account(2, 5), account(2, -30, WalletKind.CLEARING)
    )


@pytest.mark.parametrize(("type_", "amount"), [(TOP_UP, 10), (BONUS, 10), (SPEND, -10)])
def test_a_posting_moves_the_owner_and_the_treasury(type_: TransactionType, amount: int) -> None:
    owner, treasury, made = account(1, 100), account(1, -500, WalletKind.TREASURY), batch()
    item = posting(owner, treasury, 10, type_, description="Sword", reference="r-1")
    request = item.request
    outcome = posted(decide(made, item))
    assert (owner.seq, owner.balance_minor, owner.executed_at) == (8, 100 + amount, NOW)
    assert (treasury.seq, treasury.balance_minor, treasury.executed_at) == (8, -500 - amount, NOW)
    assert made.transactions == [
        TransactionRow(
            1, request.transaction_id, type_, owner.wallet.id, None, request.idempotency_key, "Sword", "r-1",
            None, None, request.fingerprint,
        )
    ]  # fmt: skip
    assert made.entries == [
        EntryRow(1, owner.id, 8, amount, 100 + amount, False),
        EntryRow(1, treasury.id, 8, -amount, -500 - amount, True),
    ]
    assert (kept_rows(made), made.alarms) == ([], {})
    view = outcome.transaction
    assert (view.id, view.type, view.amount_minor, view.balance_after_minor, view.seq, view.counterpart) == (
        request.transaction_id, type_, amount, 100 + amount, 8, None,
    )  # fmt: skip
    assert (outcome.balance, outcome.already_processed) == (Balance(owner.wallet, GOLD, 100 + amount, 8), False)


@pytest.mark.parametrize(
    ("type_", "balance_minor", "amount", "facts"),
    [
        (SPEND, 10, 10, None),
        (SPEND, 10, 11, InsufficientBalance(GOLD, 10, 11)),
        (TOP_UP, BALANCE_MINOR_MAX - 10, 10, None),
        (TOP_UP, BALANCE_MINOR_MAX - 10, 11, BalanceLimitExceeded(GOLD, BALANCE_MINOR_MAX - 10, 11)),
        (BONUS, BALANCE_MINOR_MAX, 1, BalanceLimitExceeded(GOLD, BALANCE_MINOR_MAX, 1)),
        # What takes is not refused for what is there already.
        (SPEND, BALANCE_MINOR_MAX + 10, 10, None),
    ],
)
def test_a_posting_may_go_to_the_bounds_of_a_balance(
    type_: TransactionType, balance_minor: int, amount: int, facts: Facts | None
) -> None:
    item, made = posting(account(1, balance_minor), account(1, 0, WalletKind.TREASURY), amount, type_), batch()
    if facts is None:
        assert posted(decide(made, item)).balance.amount_minor in {0, BALANCE_MINOR_MAX}
    else:
        assert_refused(made, item, facts)


@pytest.mark.parametrize(("type_", "sign"), [(TOP_UP, -1), (SPEND, 1)])
def test_a_posting_may_go_to_the_end_of_its_stripe(type_: TransactionType, sign: int) -> None:
    owner, end = account(1, 100), sign * TREASURY_MINOR_MAX
    treasury, made = account(1, end - sign * 9, WalletKind.TREASURY), batch()
    assert_unavailable(
        made, posting(owner, treasury, 10, type_), "treasury_stripe_exhausted", shard=1, slot="0", asset="GOLD"
    )
    posted(decide(made, posting(owner, treasury, 9, type_)))
    assert treasury.balance_minor == end


def test_of_what_is_wrong_with_a_posting_the_clock_wins_then_the_balance() -> None:
    owner = account(1, 5, executed_at=NOW + HEAD_AHEAD_MAX + MICROSECOND)
    item, made = posting(owner, account(1, TREASURY_MINOR_MAX, WalletKind.TREASURY), 10, SPEND), batch()
    assert_unavailable(made, item, "wallet_ahead_of_clock", shard=1, wallet_id=owner.wallet.id, ahead_seconds=60)
    owner.executed_at = NOW + HEAD_AHEAD_MAX
    assert_refused(made, item, InsufficientBalance(GOLD, 5, 10))
    owner.balance_minor = 10
    assert isinstance(decide_without_moving(made, posting(owner, item.treasury, 10, SPEND)), Unavailable)
    assert made.alarms.keys() == {"wallet_ahead_of_clock", "treasury_stripe_exhausted"}


def test_a_transfer_is_two_transactions_that_name_each_other(pair: Pair) -> None:
    made, item = batch(), pair.transfer(10, description="Gift", reference="r-2")
    request = item.request
    outcome = posted(decide(made, item))
    assert request.transaction_id != request.receiving_id
    assert made.transactions == [
        TransactionRow(
            1, request.transaction_id, OUT, pair.sender.wallet.id, None, request.idempotency_key, "Gift", "r-2",
            2, request.receiving_id, request.fingerprint,
        ),
        TransactionRow(
            2, request.receiving_id, IN, pair.receiver.wallet.id, None, None, "Gift", "r-2", 1, request.transaction_id,
            None,
        ),
    ]  # fmt: skip
    sent, received = request.transaction_id, request.receiving_id
    assert made.entries == [
        EntryRow(1, pair.sender.id, 8, -10, 90, False),
        EntryRow(1, pair.clearing.id, 8, 10, 40, True),
        EntryRow(2, pair.receiver.id, 8, 10, 15, False),
        EntryRow(2, pair.receiver_clearing.id, 8, -10, -40, True),
    ]
    heads = [(each.seq, each.balance_minor, each.executed_at) for each in item.accounts]
    assert heads == [(8, 90, NOW), (8, 40, NOW), (8, 15, NOW), (8, -40, NOW)]
    assert (kept_rows(made), made.alarms) == ([], {})
    view = outcome.transaction
    assert (view.shard, view.wallet_id, view.account_id, view.seq) == (1, pair.sender.wallet.id, pair.sender.id, 8)
    assert (view.id, view.type, view.amount_minor, view.balance_after_minor) == (sent, OUT, -10, 90)
    assert (view.counterpart, view.transfer_id) == (TransactionName(2, received), sent)
    assert (outcome.balance, outcome.already_processed) == (Balance(pair.sender.wallet, GOLD, 90, 8), False)


def test_a_transfer_within_a_shard_goes_through_one_clearing_account() -> None:
    sender, receiver, clearing = account(1, 100), account(1, 5), account(1, 0, WalletKind.CLEARING)
    made, item = batch(), transfer(sender, receiver, clearing)
    posted(decide(made, item))
    assert [(row.shard, row.counterpart_shard) for row in made.transactions] == [(1, 1), (1, 1)]
    through = [row for row in made.entries if row.account_id == clearing.id]
    assert [(row.seq, row.amount, row.balance_after) for row in through] == [(8, 10, 10), (9, -10, 0)]
    assert (sender.balance_minor, receiver.balance_minor, clearing.balance_minor, clearing.seq) == (90, 15, 0, 9)


# What can be wrong with a transfer, in the order in which it wins; the receiver is left out by the test itself.
FAULTS: Final[dict[str, Callable[[Pair, Batch], None]]] = {
    "the sender is ahead": lambda pair, _: setattr(pair.sender, "executed_at", NOW + HEAD_AHEAD_MAX + MICROSECOND),
    "the receiver is ahead": lambda pair, _: setattr(pair.receiver, "executed_at", NOW + HEAD_AHEAD_MAX + MICROSECOND),
    "the policy": lambda _, made: setattr(made, "settings", {GOLD.id: AssetSetting(TransferPolicy.NONE)}),
    "the sender's balance": lambda pair, _: setattr(pair.sender, "balance_minor", 9),
    "the receiver's balance": lambda pair, _: setattr(pair.receiver, "balance_minor", BALANCE_MINOR_MAX - 9),
    "the sender's stripe": lambda pair, _: setattr(pair.clearing, "balance_minor", TREASURY_MINOR_MAX - 9),
    "the receiver's stripe": lambda pair, _: setattr(pair.receiver_clearing, "balance_minor", 9 - TREASURY_MINOR_MAX),
}


def expect(fault: str, pair: Pair, made: Batch) -> None:
    """Decide a transfer of 10 that ends by this fault, and nothing else."""
    item = pair.transfer()
    match fault:
        case "the sender is ahead" | "the receiver is ahead":
            wallet = (pair.sender if fault == "the sender is ahead" else pair.receiver).wallet
            alarm = {"shard": wallet.shard, "wallet_id": wallet.id, "ahead_seconds": 60}
            assert_unavailable(made, item, "wallet_ahead_of_clock", **alarm)
        case "the policy":
            assert_refused(made, item, TransferForbidden(GOLD, TransferPolicy.NONE))
        case "the sender's balance":
            assert_refused(made, item, InsufficientBalance(GOLD, 9, 10))
        case "the receiver's balance":
            assert_refused(made, item, ReceiverRefused(GOLD, pair.receiver.wallet.owner_id, ReceiverCause.FULL))
        case _:
            shard = 1 if fault == "the sender's stripe" else 2
            assert_unavailable(made, item, "clearing_stripe_exhausted", shard=shard, slot="0", asset="GOLD")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_transfer_is_not_posted_for(pair: Pair, fault: str) -> None:
    made = batch()
    FAULTS[fault](pair, made)
    expect(fault, pair, made)


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_what_is_wrong_with_a_transfer_wins_over_what_comes_after_it(pair: Pair, number: int) -> None:
    made = batch()
    first, *_ = left = list(FAULTS)[number:]
    for fault in left:
        FAULTS[fault](pair, made)
    expect(first, pair, made)


def test_a_missing_receiver_wins_over_everything_and_is_not_kept(pair: Pair) -> None:
    made = batch()
    for fault in FAULTS.values():
        fault(pair, made)
    item = transfer(pair.sender, None, pair.clearing, pair.receiver_clearing)
    assert decide_without_moving(made, item) == WalletMissing("nobody")
    assert (kept_rows(made), made.answered, made.alarms) == ([], {}, {})


def test_what_was_not_kept_is_decided_again(pair: Pair) -> None:
    made, item = batch(), pair.transfer()
    assert decide(made, item._replace(receiver=None)) == WalletMissing(pair.receiver.wallet.owner_id)
    pair.clearing.balance_minor = TREASURY_MINOR_MAX
    assert isinstance(decide(made, same(item)), Unavailable)
    pair.clearing.balance_minor = 0
    assert not posted(decide(made, same(item))).already_processed


@pytest.mark.parametrize("policy", [None, TransferPolicy.ALL])
def test_a_transfer_passes_where_nothing_forbids_it(pair: Pair, policy: TransferPolicy | None) -> None:
    posted(decide(batch(policy), pair.transfer()))


def test_the_policy_of_another_asset_does_not_matter(pair: Pair) -> None:
    made = Batch(NOW, {}, {GOLD.id + 1: AssetSetting(TransferPolicy.NONE)})
    posted(decide(made, pair.transfer()))


def test_a_policy_is_about_transfers_only() -> None:
    made, treasury = batch(TransferPolicy.NONE), account(1, 0, WalletKind.TREASURY)
    for type_ in POSTING_TYPES:
        posted(decide(made, posting(account(1, 100), treasury, 10, type_)))


def test_a_transfer_may_go_to_all_bounds(pair: Pair) -> None:
    pair.sender.balance_minor = 10
    pair.receiver.balance_minor = BALANCE_MINOR_MAX - 10
    pair.clearing.balance_minor = TREASURY_MINOR_MAX - 10
    pair.receiver_clearing.balance_minor = 10 - TREASURY_MINOR_MAX
    for owner in (pair.sender, pair.receiver):
        owner.executed_at = NOW + HEAD_AHEAD_MAX
    item = pair.transfer()
    posted(decide(batch(), item))
    assert [each.balance_minor for each in item.accounts] == [
        0, TREASURY_MINOR_MAX, BALANCE_MINOR_MAX, -TREASURY_MINOR_MAX,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sender_seconds", "receiver_seconds", "seconds"), [(-1, -2, 0), (30, 20, 30), (20, 30, 30), (None, 5, 5)]
)
def test_a_transfer_is_at_the_latest_of_the_clock_and_both_owners(
    pair: Pair, sender_seconds: int | None, receiver_seconds: int, seconds: int
) -> None:
    if sender_seconds is not None:
        pair.sender.executed_at = NOW + timedelta(seconds=sender_seconds)
    pair.receiver.executed_at = NOW + timedelta(seconds=receiver_seconds)
    # The stripes have no say, however far ahead they are.
    for stripe in (pair.clearing, pair.receiver_clearing):
        stripe.executed_at = NOW + timedelta(days=1)
    made, item = batch(), pair.transfer()
    outcome = posted(decide(made, item))
    at = NOW + timedelta(seconds=seconds)
    assert outcome.transaction.executed_at == at
    assert [row.executed_at or made.now for row in made.transactions] == [at] * 2
    assert {each.executed_at for each in item.accounts} == {at}


def test_a_posting_is_at_the_later_of_the_clock_and_its_owner() -> None:
    treasury = account(1, 0, WalletKind.TREASURY, executed_at=NOW + timedelta(days=1))
    made, ahead = batch(), account(1, 100, executed_at=NOW + timedelta(seconds=30))
    posted(decide(made, posting(account(1, 100), treasury)))
    posted(decide(made, posting(ahead, treasury)))
    posted(decide(made, posting(account(1, 0, id=5, seq=0, executed_at=None), treasury)))
    assert [row.executed_at or made.now for row in made.transactions] == [NOW, NOW + timedelta(seconds=30), NOW]


def test_the_same_transfer_again_in_a_batch_is_a_replay(pair: Pair) -> None:
    made, item = batch(), pair.transfer()
    first = posted(decide(made, item))
    posted(decide(made, pair.transfer(1)))
    again = posted(decide_without_moving(made, same(item)))
    assert again == Posted(first.transaction, Balance(pair.sender.wallet, GOLD, 89, 9), already_processed=True)
    # What a batch finds of its own when it runs again was not asked for before.
    assert not posted(decide_without_moving(made, item)).already_processed


def test_the_same_transfer_again_is_a_replay_whatever_has_become_of_its_owners(pair: Pair) -> None:
    made, item = batch(), pair.transfer()
    first = posted(decide(made, item))
    for fault in FAULTS.values():
        fault(pair, made)
    assert posted(decide_without_moving(made, same(item))).transaction == first.transaction


def test_a_refused_transfer_again_in_a_batch_stays_refused(pair: Pair) -> None:
    made, item = batch(), pair.transfer(101)
    assert_refused(made, item, InsufficientBalance(GOLD, 100, 101))
    pair.sender.balance_minor = 1000
    again = refused(decide_without_moving(made, same(item)))
    assert (again.facts, again.already_processed) == (InsufficientBalance(GOLD, 100, 101), True)
    assert again.balance.amount_minor == 1000
    assert len(kept_rows(made)) == 1


def test_a_key_is_reused_by_every_other_request_in_a_batch(pair: Pair) -> None:
    made, item = batch(), pair.transfer()
    key = item.request.idempotency_key
    posted(decide(made, item))
    third = account(2, 0)
    others: list[Item] = [
        pair.transfer(11, key=key),
        pair.transfer(key=key, description="Gift"),
        pair.transfer(key=key, reference="r-1"),
        transfer(pair.sender, third, pair.clearing, pair.receiver_clearing, key=key),
        transfer(pair.sender, None, pair.clearing, pair.receiver_clearing, key=key),
        posting(pair.sender, account(1, 0, WalletKind.TREASURY), key=key),
        posting(pair.sender, account(1, 0, WalletKind.TREASURY), type_=SPEND, key=key),
    ]
    assert [decide_without_moving(made, other) for other in others] == [KeyReused(key)] * len(others)
    assert (len(made.transactions), kept_rows(made)) == (2, [])


def test_the_receiver_may_use_the_same_key(pair: Pair) -> None:
    made, item = batch(), pair.transfer()
    posted(decide(made, item))
    key = item.request.idempotency_key
    back = transfer(pair.receiver, pair.sender, pair.receiver_clearing, pair.clearing, key=key)
    assert not posted(decide(made, back)).already_processed
    assert [each.balance_minor for each in item.accounts] == [100, 30, 5, -30]


def ring(*shards: int) -> list[TransferItem]:
    """Return transfers of all that there is from each owner to the next, the last to the first, which has it."""
    owners = [account(shard, 10 * (n == 0)) for n, shard in enumerate(shards)]
    clearing = {shard: account(shard, 0, WalletKind.CLEARING) for shard in set(shards)}
    nexts = [*owners[1:], owners[0]]
    return [
        transfer(sender, receiver, clearing[sender.wallet.shard], clearing[receiver.wallet.shard])
        for sender, receiver in zip(owners, nexts, strict=True)
    ]


@pytest.mark.parametrize("shards", [(1, 2, 3), (1, 1, 2, 1), (2, 2)])
def test_a_ring_of_transfers_in_one_batch_moves_what_came_just_before(shards: tuple[int, ...]) -> None:
    made, items = batch(), ring(*shards)
    outcomes = [posted(decide(made, item)) for item in items]
    assert [outcome.transaction.balance_after_minor for outcome in outcomes] == [0] * len(shards)
    assert [item.owner.balance_minor for item in items] == [10] + [0] * (len(shards) - 1)
    assert {item.clearing.balance_minor for item in items} == {0}
    links = [(made.transactions[row.n - 1].shard, row.account_id, row.seq) for row in made.entries]
    assert len(set(links)) == len(links) == 4 * len(shards)
    chains = {link[:2]: [other[2] for other in links if other[:2] == link[:2]] for link in links}
    assert all(seqs == list(range(8, 8 + len(seqs))) for seqs in chains.values())


def test_a_ring_of_transfers_the_other_way_round_is_refused_until_the_first() -> None:
    made, items = batch(), ring(1, 2, 3)[::-1]
    outcomes = [decide(made, item) for item in items]
    assert [type(outcome) for outcome in outcomes] == [Refused, Refused, Posted]
    assert [row.outcome for row in kept_rows(made)] == [OutcomeCode.INSUFFICIENT_BALANCE] * 2


def unopened(shard: int) -> Account:
    return account(shard, id=0, seq=0, executed_at=None)


def test_a_credit_needs_its_accounts_and_a_debit_those_of_an_owner_with_one(pair: Pair) -> None:
    treasury = account(1, 0, WalletKind.TREASURY)
    top_up, spend = posting(unopened(1), treasury), posting(unopened(1), treasury, 10, SPEND)
    assert accounts_needed(batch(), [top_up]) == [top_up.owner]
    assert accounts_needed(batch(), [spend]) == []
    given = pair.transfer()
    assert accounts_needed(batch(), [given]) == []
    pair.receiver.id = 0
    assert accounts_needed(batch(), [given]) == [pair.receiver]
    assert accounts_needed(batch(), [transfer(unopened(1), pair.receiver, pair.clearing)]) == []
    assert accounts_needed(batch(), [given._replace(receiver=None)]) == []


def test_a_debit_needs_accounts_where_its_owner_s_is_opened_before_it_in_the_batch() -> None:
    first, second, third = ring(1, 2, 3)
    new, last = unopened(2), unopened(3)
    gift = first._replace(receiver=new, receiver_clearing=unopened(2))
    onward = second._replace(owner=new, receiver=last)
    back = third._replace(owner=last)
    needed = accounts_needed(batch(), [gift, onward, back])
    accounts = {each.name: each for item in (gift, onward, back) for each in item.accounts}
    assert {each.name for each in needed} == {name for name, each in accounts.items() if not each.id}
    assert accounts_needed(batch(), [onward, back]) == []


def test_what_was_answered_before_needs_no_accounts(pair: Pair) -> None:
    made, item = batch(), pair.transfer()
    decide(made, item)
    assert accounts_needed(made, [item]) == []


def test_a_transfer_in_the_books_is_recalled_with_its_other_half(pair: Pair) -> None:
    item, other = pair.transfer(10, description="Gift"), UUID(int=9)
    leg: dict[str, Any] = {
        "account_id": pair.sender.id,
        "seq": 3,
        "amount_minor": -10,
        "balance_after_minor": 40,
        "executed_at": NOW,
    }
    answer = kept(item, OutcomeCode.POSTED, counterpart_shard=2, counterpart_id=other, **leg)
    made = replace(batch(), answered=recall(batch(), [item], [answer]))
    again = posted(decide_without_moving(made, same(item)))
    view = again.transaction
    assert (view.counterpart, view.type, view.amount_minor, view.balance_after_minor, view.seq, view.description) == (
        TransactionName(2, other), OUT, -10, 40, 3, "Gift",
    )  # fmt: skip
    assert (again.balance.amount_minor, again.already_processed) == (100, True)
    assert decide_without_moving(made, pair.transfer(11, key=item.request.idempotency_key)) == KeyReused(
        item.request.idempotency_key
    )


@pytest.mark.parametrize(
    "facts",
    [
        InsufficientBalance(GOLD, 3, 10),
        BalanceLimitExceeded(GOLD, BALANCE_MINOR_MAX, 10),
        TransferForbidden(GOLD, TransferPolicy.NONE),
        ReceiverRefused(GOLD, "player-é", ReceiverCause.FULL),
    ],
)
def test_a_kept_refusal_is_recalled_with_its_facts(pair: Pair, facts: Facts) -> None:
    item = pair.transfer()
    answer = kept(item, facts.code, orjson.dumps(details_of(facts)).decode())
    made = replace(batch(), answered=recall(batch(), [item], [answer]))
    again = refused(decide_without_moving(made, same(item)))
    assert again == Refused(facts, pair.sender.balance(), already_processed=True)
    assert kept_rows(made) == []
