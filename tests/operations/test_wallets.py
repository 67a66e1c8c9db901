import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest
from factories import balance, new_owner, new_owner_id, post
from proxy import COMMIT, Fate, open_through_proxy
from tables import count_rows

from wallet_gql.domain.errors import BadUserInput, OutcomeUnknown
from wallet_gql.domain.postings import Posted, WalletMissing
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.wallets import open_wallet
from wallet_gql.settings import Settings


async def test_new_owner_gets_an_empty_wallet_in_its_shard(ledger: Ledger) -> None:
    owner = new_owner_id()
    before = await count_rows(ledger.settings)

    opened = await open_wallet(ledger, owner)

    assert not opened.already_open
    assert (opened.wallet.owner_id, opened.wallet.shard) == (owner, shard_of(owner, ledger.shard_count))
    assert opened.wallet.opened_at.tzinfo is not None
    assert opened.wallet.opened_at <= datetime.now(UTC)
    assert await balance(ledger, owner) == 0
    # Accounts are opened by the first posting.
    assert await count_rows(ledger.settings) == before._replace(wallets=before.wallets + 1)


async def test_opening_again_returns_the_same_wallet(ledger: Ledger) -> None:
    owner = new_owner_id()
    first = await open_wallet(ledger, owner)
    before = await count_rows(ledger.settings)

    again = await open_wallet(ledger, owner)

    assert again == (first.wallet, True)
    assert await count_rows(ledger.settings) == before


async def test_opened_at_once_over_many_connections_it_is_one_wallet(ledger: Ledger) -> None:
    owners = [new_owner_id() for _ in range(10)]
    before = await count_rows(ledger.settings)
    async with open_ledger(ledger.settings) as other:
        opened = await asyncio.gather(
            *(open_wallet(opener, owner) for owner in owners for opener in (ledger, other, ledger, other))
        )

    for owner in owners:
        own = [wallet for wallet in opened if wallet.wallet.owner_id == owner]
        assert len({wallet.wallet.id for wallet in own}) == 1
        assert sorted(wallet.already_open for wallet in own) == [False, True, True, True]
    assert await count_rows(ledger.settings) == before._replace(wallets=before.wallets + len(owners))


async def test_opening_again_burns_no_id(ledger: Ledger) -> None:
    owner = new_owner_id()
    first = await open_wallet(ledger, owner)
    for _ in range(20):
        await open_wallet(ledger, owner)

    assert (await open_wallet(ledger, new_owner_id())).wallet.id == first.wallet.id + 1


@pytest.mark.parametrize(("fate", "is_done"), [(Fate.LOST, False), (Fate.UNANSWERED, True)])
async def test_opening_whose_commit_stays_in_doubt_is_outcome_unknown(
    ledger: Ledger, settings: Settings, fate: Fate, is_done: bool
) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        owner = new_owner_id()
        before = await count_rows(settings)
        proxy.on(COMMIT, fate, then_refuse=True)

        with pytest.raises(OutcomeUnknown):
            await open_wallet(service, owner)

        assert proxy.count == 1
        assert await count_rows(settings) == before._replace(wallets=before.wallets + is_done)
    assert (await open_wallet(ledger, owner)).already_open is is_done


async def test_opening_whose_commit_was_cut_is_done_once(ledger: Ledger, settings: Settings) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        before = await count_rows(settings)
        proxy.on(COMMIT, Fate.UNANSWERED)

        opened = await open_wallet(service, new_owner_id())

        assert (proxy.count, opened.wallet.shard) == (1, shard_of(opened.wallet.owner_id, ledger.shard_count))
        assert await count_rows(settings) == before._replace(wallets=before.wallets + 1)


async def test_case_matters(ledger: Ledger) -> None:
    owner = new_owner_id("Player")
    lower = await open_wallet(ledger, owner.lower())

    assert (await open_wallet(ledger, owner)).wallet.id != lower.wallet.id


async def test_owner_named_like_a_treasury_stripe_has_a_wallet_of_its_own(ledger: Ledger) -> None:
    # Treasury stripes are named by the number of their slot, in the same table.
    owner = str(ledger.slot)
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    assert await ledger.reads.wallets.load(name) is None
    assert await post(ledger, "top_up", owner, 1) == WalletMissing(owner)

    opened = await open_wallet(ledger, owner)

    assert not opened.already_open
    assert await balance(ledger, owner) == 0


@pytest.mark.parametrize(
    ("owner_id", "fault"),
    [
        ("", "ownerId has 0 characters: send 1 to 128."),
        ("x" * 129, "ownerId has 129 characters: send 1 to 128."),
        (" a", "ownerId begins or ends with a blank: send the id without surrounding blanks."),
        ("a\n", "ownerId begins or ends with a blank: send the id without surrounding blanks."),
        ("a\0b", "ownerId contains a control character: send printable characters only."),
        ("a\x7fb", "ownerId contains a control character: send printable characters only."),
        ("a\u2028b", "ownerId contains a control character: send printable characters only."),
        ("a\udc00", "ownerId contains a control character: send printable characters only."),
        ("e\u0301", "ownerId is not in Unicode normalization form C: send the id in NFC."),
    ],
)
async def test_malformed_owner_id_is_refused(ledger: Ledger, owner_id: str, fault: str) -> None:
    before = await count_rows(ledger.settings)

    with pytest.raises(BadUserInput) as caught:
        await open_wallet(ledger, owner_id)

    assert str(caught.value) == fault
    assert await count_rows(ledger.settings) == before


@pytest.mark.parametrize(
    ("invisible", "name"),
    [
        ("\u00ad", "U+00AD"),  # soft hyphen
        ("\u200b", "U+200B"),  # zero width space
        ("\u200d", "U+200D"),  # zero width joiner
        ("\u202e", "U+202E"),  # right to left from here
        ("\ufeff", "U+FEFF"),  # byte order mark
        ("\U000e0041", "U+E0041"),  # tag
        ("\ufe0f", "U+FE0F"),  # variation selector
        ("\u034f", "U+034F"),  # combining grapheme joiner
        ("\u2800", "U+2800"),  # blank of Braille
        ("\u3164", "U+3164"),  # Hangul filler
    ],
)
async def test_invisible_character_is_refused_in_a_new_owner_id_only(
    ledger: Ledger, server_connection: asyncpg.Connection, invisible: str, name: str
) -> None:
    plain = await new_owner(ledger)
    owner = plain[:3] + invisible + plain[3:]
    before = await count_rows(ledger.settings)
    with pytest.raises(BadUserInput) as caught:
        await open_wallet(ledger, owner)
    assert str(caught.value) == f"ownerId contains the invisible character {name}: send visible characters only."
    assert await count_rows(ledger.settings) == before

    # One that was opened before this rule stays reachable by every door.
    shard = shard_of(owner, ledger.shard_count)
    await server_connection.execute("INSERT INTO wallet (shard, kind, owner_id) VALUES ($1, 1, $2)", shard, owner)
    assert (await open_wallet(ledger, owner)).already_open
    assert isinstance(await post(ledger, "top_up", owner, 5), Posted)
    assert await balance(ledger, owner) == 5
