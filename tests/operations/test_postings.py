import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from batches import refused_on
from factories import POSTINGS, balance, new_owner, new_owner_id, post, request
from tables import Rows, count_rows

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX, AmountFault
from wallet_gql.domain.postings import (
    AmountInvalid,
    AssetMissing,
    KeyReused,
    Posted,
    PostingRequest,
    TransactionType,
    WalletMissing,
)
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import Balance, OwnerName
from wallet_gql.ledger.posting import post_batch
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.postings import PostingInput, PostingOutcome
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.operations.wallets import open_wallet

TOO_LARGE: Final = POSTING_MINOR_MAX + 1
TOO_LONG: Final = "x" * 501
SIGNS: Final = {"top_up": 1, "bonus": 1, "spend": -1}


@dataclass(frozen=True)
class Scene:
    """An owner's wallet, in which a request for 10 GOLD and one for 12.5 POINTS were posted, and its balance now."""

    ledger: Ledger
    verb: str
    owner: str
    first: PostingInput
    posted: Posted
    points: PostingInput
    points_posted: Posted
    now: Balance

    def fresh(self, amount: int | str = 1, **more: Any) -> PostingInput:
        """A request under a key of its own."""
        return request(more.pop("owner_id", self.owner), amount, **more)

    def again(self, **changes: Any) -> PostingInput:
        """The first request again, but for the changes."""
        if "amount" in changes:
            changes["amount"] = Decimal(changes["amount"])
        return replace(self.first, **changes)


async def position(ledger: Ledger, owner: str, asset_code: str = "GOLD") -> Balance:
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    found = await ledger.reads.owners_balances.load((name, ledger.assets[asset_code]))
    assert found is not None
    return found


async def fill(ledger: Ledger, owner: str) -> None:
    """Top an owner up to the most GOLD that a wallet may hold."""
    whole, rest = divmod(BALANCE_MINOR_MAX - await balance(ledger, owner), POSTING_MINOR_MAX)
    shard, gold = shard_of(owner, ledger.shard_count), ledger.assets["GOLD"]
    async with unit_of_work(ledger.engine) as connection:
        requests = [
            PostingRequest(shard, owner, TransactionType.TOP_UP, gold, amount, uuid4())
            for amount in [POSTING_MINOR_MAX] * whole + [rest] * bool(rest)
        ]
        await post_batch(connection, requests, ledger.slot)
    assert await balance(ledger, owner) == BALANCE_MINOR_MAX


async def set_scene(ledger: Ledger, verb: str, state: str) -> Scene:
    """Make a wallet that holds a hundred or so, or all that a wallet may hold ("full"), or nothing ("empty")."""
    owner = await new_owner(ledger, gold=100)
    assert isinstance(await post(ledger, "top_up", owner, "100", asset_code="POINTS"), Posted)
    points = request(owner, "12.5", asset_code="POINTS")
    points_posted = await POSTINGS[verb](ledger, points)
    assert isinstance(points_posted, Posted)
    first = request(owner, 10, description="a sword", reference="order-1")
    posted = await POSTINGS[verb](ledger, first)
    assert isinstance(posted, Posted)
    if state == "full":
        await fill(ledger, owner)
    if state == "empty":
        assert isinstance(await post(ledger, "spend", owner, await balance(ledger, owner)), Posted)
    return Scene(ledger, verb, owner, first, posted, points, points_posted, await position(ledger, owner))


@dataclass(frozen=True)
class Case:
    """A request and its outcome; of a malformed request, the field at fault."""

    name: str
    ask: Callable[[Scene], PostingInput]
    expected: Callable[[Scene], PostingOutcome | str]
    state: str = "usual"
    is_kept: bool = False
    flows: tuple[str, ...] = ("top_up", "bonus", "spend")
    by_other_flow: bool = False


def bad(field: str) -> Callable[[Scene], PostingOutcome | str]:
    return lambda _: field


def no_asset(code: str) -> Callable[[Scene], PostingOutcome | str]:
    return lambda _: AssetMissing(code)


def no_amount(fault: str, code: str = "GOLD") -> Callable[[Scene], PostingOutcome | str]:
    return lambda scene: AmountInvalid(AmountFault[fault], scene.ledger.assets[code])


def no_wallet(owner_id: str) -> Callable[[Scene], PostingOutcome | str]:
    return lambda _: WalletMissing(owner_id)


def posted_before(scene: Scene) -> PostingOutcome:
    return Posted(scene.posted.transaction, scene.now, already_processed=True)


def points_posted_before(scene: Scene) -> PostingOutcome:
    return replace(scene.points_posted, already_processed=True)


def key_reused(scene: Scene) -> PostingOutcome:
    return KeyReused(scene.first.idempotency_key)


def refused(code: OutcomeCode, amount: int) -> Callable[[Scene], PostingOutcome | str]:
    return lambda scene: refused_on(code, scene.now.amount_minor, amount, scene.now, already_processed=False)


# In the order in which they win; a request with several faults shows which one does.
OUTCOMES: Final = (
    Case("owner id empty", lambda s: s.fresh(owner_id=""), bad("ownerId")),
    Case("owner id of 129 characters", lambda s: s.fresh(owner_id="x" * 129), bad("ownerId")),
    Case("owner id with NUL", lambda s: s.fresh(owner_id="a\0b"), bad("ownerId")),
    Case("owner id with a tab", lambda s: s.fresh(owner_id="a\tb"), bad("ownerId")),
    Case("owner id with a lone surrogate", lambda s: s.fresh(owner_id="a\ud800"), bad("ownerId")),
    Case("owner id after a blank", lambda s: s.fresh(owner_id=f" {s.owner}"), bad("ownerId")),
    Case("owner id before a blank", lambda s: s.fresh(owner_id=f"{s.owner}\u00a0"), bad("ownerId")),
    Case("owner id, then description", lambda s: s.fresh(owner_id="", description=TOO_LONG), bad("ownerId")),
    Case("owner id, then key", lambda s: s.again(owner_id=f"{s.owner} "), bad("ownerId")),
    Case("description of 501 characters", lambda s: s.fresh(description=TOO_LONG), bad("description")),
    Case("description with NUL", lambda s: s.fresh(description="a\0"), bad("description")),
    Case("description with a lone surrogate", lambda s: s.fresh(description="\udfff"), bad("description")),
    Case("description, then reference", lambda s: s.fresh(description="\0", reference="\0"), bad("description")),
    Case("reference of 501 characters", lambda s: s.fresh(reference=TOO_LONG), bad("reference")),
    Case("reference with NUL", lambda s: s.fresh(reference="\0"), bad("reference")),
    Case("reference, then asset", lambda s: s.fresh(reference="\0", asset_code="NONE"), bad("reference")),
    Case("reference, then amount", lambda s: s.again(reference="\0", amount=0), bad("reference")),
    Case("asset unknown", lambda s: s.fresh(asset_code="NONE"), no_asset("NONE")),
    Case("asset in lower case", lambda s: s.fresh(asset_code="gold"), no_asset("gold")),
    Case("asset empty", lambda s: s.fresh(asset_code=""), no_asset("")),
    Case("asset with NUL", lambda s: s.fresh(asset_code="GOLD\0"), no_asset("GOLD\0")),
    Case("asset with a lone surrogate", lambda s: s.fresh(asset_code="\ud800"), no_asset("\ud800")),
    Case("asset, then amount", lambda s: s.fresh(0, asset_code="NONE"), no_asset("NONE")),
    Case("asset, then wallet", lambda s: s.fresh(owner_id="nobody", asset_code="NONE"), no_asset("NONE")),
    Case("asset, then key", lambda s: s.again(asset_code="NONE"), no_asset("NONE")),
    Case("amount zero", lambda s: s.fresh(0), no_amount("NOT_POSITIVE")),
    Case("amount minus zero", lambda s: s.fresh("-0"), no_amount("NOT_POSITIVE")),
    Case("amount negative", lambda s: s.fresh(-1), no_amount("NOT_POSITIVE")),
    Case("not positive, then too precise", lambda s: s.fresh("-1.5"), no_amount("NOT_POSITIVE")),
    Case("not positive, then too large", lambda s: s.fresh(-TOO_LARGE), no_amount("NOT_POSITIVE")),
    Case("amount too precise", lambda s: s.fresh("1.5"), no_amount("TOO_PRECISE")),
    Case("amount too precise by a zero", lambda s: s.fresh("1.0"), no_amount("TOO_PRECISE")),
    Case("points too precise", lambda s: s.fresh("0.001", asset_code="POINTS"), no_amount("TOO_PRECISE", "POINTS")),
    Case("too precise, then too large", lambda s: s.fresh(f"{TOO_LARGE}.5"), no_amount("TOO_PRECISE")),
    Case("amount too large", lambda s: s.fresh(TOO_LARGE), no_amount("TOO_LARGE")),
    Case("points too large", lambda s: s.fresh(f"{10**13}.01", asset_code="POINTS"), no_amount("TOO_LARGE", "POINTS")),
    Case("amount of 5,000 digits", lambda s: s.fresh("9" * 5000), no_amount("TOO_LARGE")),
    Case("amount, then wallet", lambda s: s.fresh(0, owner_id="nobody"), no_amount("NOT_POSITIVE")),
    Case("amount, then key", lambda s: s.again(amount=0), no_amount("NOT_POSITIVE")),
    Case("amount, then balance", lambda s: s.fresh(TOO_LARGE), no_amount("TOO_LARGE"), state="empty"),
    Case("wallet missing", lambda s: s.fresh(owner_id="nobody"), no_wallet("nobody")),
    Case("wallet of an owner id in other case", lambda s: s.fresh(owner_id="Nobody"), no_wallet("Nobody")),
    Case("wallet, then key", lambda s: s.again(owner_id="nobody"), no_wallet("nobody")),
    Case("wallet, then balance", lambda s: s.fresh(POSTING_MINOR_MAX, owner_id="nobody"), no_wallet("nobody")),
    Case("same request", lambda s: s.again(), posted_before),
    Case("same amount after a zero", lambda s: s.again(amount="010"), posted_before),
    Case("same amount with all digits", lambda s: replace(s.points, amount=Decimal("12.50")), points_posted_before),
    Case("same request, then limit", lambda s: s.again(), posted_before, state="full"),
    Case("same request, then balance", lambda s: s.again(), posted_before, state="empty"),
    Case("key of another type", lambda s: s.again(), key_reused, by_other_flow=True),
    Case("key of another asset, never used", lambda s: s.again(asset_code="DIAMOND"), key_reused),
    Case("key of another asset, in use", lambda s: s.again(asset_code="POINTS"), key_reused),
    Case("key of another amount", lambda s: s.again(amount=11), key_reused),
    Case("key of another description", lambda s: s.again(description="a shield"), key_reused),
    Case("key of a description, sent without", lambda s: s.again(description=None), key_reused),
    Case("key of a description, sent empty", lambda s: s.again(description=""), key_reused),
    Case("key of another reference", lambda s: s.again(reference="order-2"), key_reused),
    Case("key of a reference, sent without", lambda s: s.again(reference=None), key_reused),
    Case("key of texts, sent crossed", lambda s: s.again(description="order-1", reference="a sword"), key_reused),
    Case("key, then limit", lambda s: s.again(amount=11), key_reused, state="full"),
    Case("key, then balance", lambda s: s.again(amount=11), key_reused, state="empty"),
    Case(
        "balance at its limit",
        lambda s: s.fresh(1),
        refused(OutcomeCode.BALANCE_LIMIT_EXCEEDED, 1),
        state="full",
        is_kept=True,
        flows=("top_up", "bonus"),
    ),
    Case(
        "balance one too small",
        lambda s: s.fresh(s.now.amount_minor + 1),
        lambda s: refused(OutcomeCode.INSUFFICIENT_BALANCE, s.now.amount_minor + 1)(s),
        is_kept=True,
        flows=("spend",),
    ),
    Case(
        "balance empty",
        lambda s: s.fresh(1),
        refused(OutcomeCode.INSUFFICIENT_BALANCE, 1),
        state="empty",
        is_kept=True,
        flows=("spend",),
    ),
)


@pytest.mark.parametrize(
    ("verb", "case"),
    [
        pytest.param(verb, case, id=f"{verb}: {case.name}")
        for verb in ("top_up", "bonus", "spend")
        for case in OUTCOMES
        if verb in case.flows
    ],
)
async def test_outcome(ledger: Ledger, verb: str, case: Case) -> None:
    scene = await set_scene(ledger, verb, case.state)
    operation = POSTINGS[verb if not case.by_other_flow else "bonus" if verb != "bonus" else "top_up"]
    before = await count_rows(ledger.settings)

    outcome: PostingOutcome | str
    try:
        outcome = await operation(ledger, case.ask(scene))
    except BadUserInput as error:
        outcome = error.field

    assert outcome == case.expected(scene)
    assert await position(ledger, scene.owner) == scene.now
    assert await position(ledger, scene.owner, "POINTS") == scene.points_posted.balance
    assert await count_rows(ledger.settings) == before._replace(keys=before.keys + case.is_kept)


@pytest.mark.parametrize("verb", POSTINGS)
async def test_posting_moves_credits_once(ledger: Ledger, verb: str) -> None:
    owner = await new_owner(ledger, gold=100)
    before = await count_rows(ledger.settings)
    asked = request(owner, 40, description="a sword", reference="order-1")

    outcome = await POSTINGS[verb](ledger, asked)

    assert isinstance(outcome, Posted)
    transaction = outcome.transaction
    assert not outcome.already_processed
    assert transaction.type is TransactionType[verb.upper()]
    assert transaction.amount_minor == 40 * SIGNS[verb]
    assert transaction.balance_after_minor == outcome.balance.amount_minor == 100 + 40 * SIGNS[verb]
    assert transaction.idempotency_key == asked.idempotency_key
    assert (transaction.description, transaction.reference) == ("a sword", "order-1")
    assert (transaction.asset.code, transaction.seq, transaction.wallet_id) == ("GOLD", 2, outcome.balance.wallet.id)
    assert outcome.balance == await position(ledger, owner)
    assert await count_rows(ledger.settings) == Rows(
        before.wallets, before.accounts, before.transactions + 1, before.entries + 2, before.keys + 1
    )


@pytest.mark.parametrize("verb", ["top_up", "bonus"])
async def test_first_posting_in_an_asset_opens_its_account(ledger: Ledger, verb: str) -> None:
    owner = await new_owner(ledger, gold=1)
    before = await count_rows(ledger.settings)

    outcome = await post(ledger, verb, owner, "0.01", asset_code="POINTS")

    assert isinstance(outcome, Posted)
    assert (outcome.balance.amount_minor, outcome.balance.seq) == (1, 1)
    assert (await count_rows(ledger.settings)).accounts == before.accounts + 1
    assert await balance(ledger, owner) == 1


async def test_spend_of_an_asset_never_used_opens_no_account(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=1)
    before = await count_rows(ledger.settings)

    outcome = await post(ledger, "spend", owner, 1, asset_code="DIAMOND")

    assert outcome == refused_on(
        OutcomeCode.INSUFFICIENT_BALANCE, 0, 1, await position(ledger, owner, "DIAMOND"), already_processed=False
    )
    assert await count_rows(ledger.settings) == before._replace(keys=before.keys + 1)


async def test_spend_of_all_there_is_passes(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=7)

    outcome = await post(ledger, "spend", owner, 7)

    assert isinstance(outcome, Posted)
    assert outcome.balance.amount_minor == await balance(ledger, owner) == 0


@pytest.mark.parametrize("verb", ["top_up", "bonus"])
async def test_credit_up_to_the_limit_passes(ledger: Ledger, verb: str) -> None:
    owner = await new_owner(ledger)
    await fill(ledger, owner)
    assert isinstance(await post(ledger, "spend", owner, POSTING_MINOR_MAX), Posted)

    outcome = await post(ledger, verb, owner, POSTING_MINOR_MAX)

    assert isinstance(outcome, Posted)
    assert outcome.balance.amount_minor == BALANCE_MINOR_MAX


@pytest.mark.parametrize(
    ("owner_id", "description"),
    [("x" * 128, "y" * 500), ("😀" * 128, "😀" * 500), ("a b", ""), ("ü", "line\nline"), ("-", " blank ")],
)
async def test_texts_at_their_limits_are_kept_as_they_are(ledger: Ledger, owner_id: str, description: str) -> None:
    await open_wallet(ledger, owner_id)

    outcome = await post(ledger, "top_up", owner_id, 1, description=description, reference=description)

    assert isinstance(outcome, Posted)
    replay = await ledger.reads.transactions_by_key.load((
        OwnerName(shard_of(owner_id, ledger.shard_count), owner_id),
        outcome.transaction.idempotency_key or UUID(int=0),
    ))  # fmt: skip
    assert replay == outcome.transaction
    assert (replay.description, replay.reference) == (description, description)


@pytest.mark.parametrize("verb", POSTINGS)
@pytest.mark.parametrize("name", ["e\u0301", "Å", "\u1112\u1161\u11ab"])
async def test_owner_id_of_equal_characters_but_not_nfc_is_refused(ledger: Ledger, verb: str, name: str) -> None:
    owner = unicodedata.normalize("NFC", f"{name}-{uuid4().hex[:12]}")
    decomposed = unicodedata.normalize("NFD", owner)
    await new_owner(ledger, gold=100, owner_id=owner)
    before = await count_rows(ledger.settings)

    with pytest.raises(BadUserInput, match="ownerId is not in Unicode normalization form C: send the id in NFC"):
        await post(ledger, verb, decomposed, 1)

    assert decomposed != owner
    assert await balance(ledger, owner) == 100
    assert await count_rows(ledger.settings) == before


async def test_one_key_under_two_owners_is_two_postings(ledger: Ledger) -> None:
    key = uuid4()
    first, second = await new_owner(ledger), await new_owner(ledger)

    outcomes = [await post(ledger, "top_up", owner, 5, key) for owner in (first, second)]

    assert all(isinstance(outcome, Posted) and not outcome.already_processed for outcome in outcomes)
    assert (await balance(ledger, first), await balance(ledger, second)) == (5, 5)


async def test_replay_tells_the_first_transaction_and_the_balance_now(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    key = uuid4()
    first = await post(ledger, "spend", owner, 30, key)
    await post(ledger, "top_up", owner, 5)

    again = await post(ledger, "spend", owner, 30, key)

    assert isinstance(first, Posted)
    assert isinstance(again, Posted)
    assert again.already_processed
    assert again.transaction == first.transaction
    assert (again.transaction.balance_after_minor, again.balance.amount_minor) == (70, 75)


async def test_refused_spend_stays_refused_after_a_top_up(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    asked = request(owner, 25)
    await POSTINGS["spend"](ledger, asked)
    await post(ledger, "top_up", owner, 100)
    before = await count_rows(ledger.settings)

    late = await POSTINGS["spend"](ledger, asked)

    assert late == refused_on(
        OutcomeCode.INSUFFICIENT_BALANCE, 10, 25, await position(ledger, owner), already_processed=True
    )
    assert await balance(ledger, owner) == 110
    assert await count_rows(ledger.settings) == before


async def test_top_up_past_the_limit_stays_refused_after_a_spend(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    await fill(ledger, owner)
    asked = request(owner, 25)
    await POSTINGS["top_up"](ledger, asked)
    assert isinstance(await post(ledger, "spend", owner, 1000), Posted)
    before = await count_rows(ledger.settings)

    late = await POSTINGS["top_up"](ledger, asked)

    assert late == refused_on(
        OutcomeCode.BALANCE_LIMIT_EXCEEDED,
        BALANCE_MINOR_MAX,
        25,
        await position(ledger, owner),
        already_processed=True,
    )
    assert await balance(ledger, owner) == BALANCE_MINOR_MAX - 1000
    assert await count_rows(ledger.settings) == before


@pytest.mark.parametrize("changes", [{"amount": Decimal(5)}, {"asset_code": "POINTS"}, {"reference": "other"}])
async def test_key_of_a_refused_spend_is_taken(ledger: Ledger, changes: dict[str, Any]) -> None:
    owner = await new_owner(ledger, gold=10)
    asked = request(owner, 25)
    await POSTINGS["spend"](ledger, asked)

    assert await POSTINGS["spend"](ledger, replace(asked, **changes)) == KeyReused(asked.idempotency_key)
    assert await balance(ledger, owner) == 10


async def test_key_is_free_after_wallet_missing(ledger: Ledger) -> None:
    owner, key = new_owner_id(), uuid4()
    assert await post(ledger, "top_up", owner, 5, key) == WalletMissing(owner)
    await open_wallet(ledger, owner)

    outcome = await post(ledger, "top_up", owner, 5, key)

    assert isinstance(outcome, Posted)
    assert not outcome.already_processed
    assert await balance(ledger, owner) == 5


@pytest.mark.parametrize(
    "wrong",
    [{"amount": Decimal(0)}, {"amount": Decimal("1.5")}, {"amount": Decimal(TOO_LARGE)}, {"asset_code": "NONE"}],
)
async def test_key_is_free_after_a_refusal_of_amount_or_asset(ledger: Ledger, wrong: dict[str, Any]) -> None:
    owner = await new_owner(ledger)
    asked = request(owner, 5)
    assert isinstance(await POSTINGS["bonus"](ledger, replace(asked, **wrong)), AmountInvalid | AssetMissing)

    outcome = await POSTINGS["bonus"](ledger, asked)

    assert isinstance(outcome, Posted)
    assert not outcome.already_processed
    assert await balance(ledger, owner) == 5


async def test_key_is_free_after_key_reused(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    asked = request(owner, 3)
    first = await POSTINGS["spend"](ledger, asked)
    assert isinstance(await POSTINGS["spend"](ledger, replace(asked, amount=Decimal(4))), KeyReused)

    again = await POSTINGS["spend"](ledger, asked)

    assert isinstance(first, Posted)
    assert again == replace(first, already_processed=True)
