"""Limits as they are shown: how much of each is used up, and when time gives some of it back."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from asyncpg import Connection

from wallet_gql.domain.limits import COUNTED, MOVEMENTS, LimitFlow, Rule, Used, Window
from wallet_gql.domain.postings import from_unix_us
from wallet_gql.domain.refusals import LimitExceeded
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.columns import Bigint, Integers, Smallint, Text, Time, array, arrays, unnest
from wallet_gql.ledger.heads import Account, read_heads
from wallet_gql.ledger.holds import read_open_holds
from wallet_gql.ledger.judge_limits import holds_in, used_of_rule
from wallet_gql.ledger.limits import TYPES, Chain, KnownLimits, read_limits, read_rules_in_force
from wallet_gql.ledger.lookups import one_row
from wallet_gql.ledger.reads import WalletAsset, read_balances


class Way(NamedTuple):
    """One way for time to give something back: not before a moment, and when so much has left the window."""

    not_before: datetime
    least: Used


class ResetRequest(NamedTuple):
    """Asks for the first of several ways, from a time on, after so many entries of an account."""

    shard: int
    account_id: int
    seq: int
    flow: LimitFlow
    window: Window
    at: datetime
    ways: tuple[Way, ...]


_NOTHING: Final = Used(0, 0)


class LimitUse(NamedTuple):
    """How much of a limit is used up; `reset` asks when some of that is given back, None where time gives none."""

    rule: Rule
    used: Used
    reset: ResetRequest | None


class _Wanted(NamedTuple):
    shard: Smallint
    account_id: Bigint
    seq: Bigint
    moment: Time
    types: Integers
    places: Integers
    amount: Text
    number: Text


# First among the entries that no `flows` count, then among the others.
_REACHING: Final = f"""
SELECT wanted.n, coalesce(uncounted.executed_at, reached.executed_at)
  FROM {unnest(_Wanted, "wanted", numbered=True)}
 CROSS JOIN LATERAL (
       SELECT entry_until(wanted.shard, wanted.account_id, 0, wanted.seq, wanted.moment) AS seq OFFSET 0) AS b
  LEFT JOIN {one_row("entry", "h", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="wanted.seq")}
    ON true
  LEFT JOIN {one_row("entry", "o", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="b.seq")} ON true
 CROSS JOIN LATERAL (
       SELECT max(e.amount) AS amount, max(e.number) AS number,
              min(e.executed_at) FILTER (WHERE e.amount >= wanted.amount::numeric
                                           AND e.number >= wanted.number::numeric) AS executed_at
         FROM (SELECT e.executed_at, sum(abs(e.amount)) OVER passed AS amount, count(*) OVER passed AS number
                 FROM (SELECT * FROM entry e
                        WHERE e.shard = wanted.shard AND e.account_id = wanted.account_id AND e.seq > b.seq
                          AND e.seq <= coalesce(h.flows[11] - 1, wanted.seq)
                        ORDER BY e.seq) AS e
                WHERE e.type = ANY (wanted.types::int[])
               WINDOW passed AS (ORDER BY e.seq)) AS e) AS uncounted
  LEFT JOIN LATERAL (
       SELECT e.executed_at
         FROM entry e
        WHERE e.shard = wanted.shard AND e.account_id = wanted.account_id
          AND e.seq BETWEEN greatest(b.seq + 1, h.flows[11]) AND wanted.seq
          AND e.seq = entry_reaching(
              wanted.shard, wanted.account_id, greatest(b.seq + 1, h.flows[11]::bigint), wanted.seq,
              wanted.places::int[],
              wanted.amount::numeric - coalesce(uncounted.amount, 0)
                + coalesce((SELECT sum(o.flows[place]) FROM unnest(wanted.places::int[]) AS place), 0),
              wanted.number::numeric - coalesce(uncounted.number, 0)
                + coalesce((SELECT sum(o.flows[place + 1]) FROM unnest(wanted.places::int[]) AS place), 0))
        ORDER BY e.seq
        LIMIT 1) AS reached ON uncounted.executed_at IS NULL AND h.flows IS NOT NULL
"""


async def read_limit_uses(
    connection: Connection, wanted: Sequence[WalletAsset], *, known: KnownLimits
) -> list[list[LimitUse]]:
    """Return the limits of each wallet in an asset, in order, with what is used up of them.

    Two statements, up to five more where there are limits.
    """
    accounts = [Account(wallet, WalletKind.USER, asset) for wallet, asset in wanted]
    now = await read_heads(connection, {account.name: account for account in accounts})
    await read_limits(connection, accounts, now, known)
    if holding := [account for account in accounts if account.counts_holds]:
        await read_open_holds(connection, holding, now)
    for account in holding:
        account.holds = {id_: hold for id_, hold in account.holds.items() if not hold.is_due}
    balances = await read_balances(connection, wanted)
    return [
        [_use(account, rule, balance.amount_minor, now) for rule in account.rules]
        for account, balance in zip(accounts, balances, strict=True)
    ]


def _use(account: Account, rule: Rule, balance_minor: int, now: datetime) -> LimitUse:
    if rule.window is None:
        return LimitUse(rule, Used(balance_minor, 0), None)
    used, holds = used_of_rule(account, rule), holds_in(account, rule.flow)
    at = now if account.executed_at is None else max(now, account.executed_at)
    ways = [Way(hold.held_until, _NOTHING) for hold in holds]
    if used.number > len(holds):
        ways.append(Way(at, Used(0, 1)))
    shard = account.wallet.shard
    reset = ResetRequest(shard, account.id, account.seq, rule.flow, rule.window, at, tuple(ways))
    return LimitUse(rule, used, reset if ways else None)


def reset_of(facts: LimitExceeded, rule: Rule, shard: int) -> ResetRequest | None:
    """Ask when what was refused would pass, if nothing else moved; None where time alone never lets it."""
    if rule.window is None:
        return None
    held = [tuple(map(int, each.split("@"))) for each in facts.held.split()]
    at = from_unix_us(facts.at_us)
    over_minor = 0 if rule.max_minor is None else facts.used_minor + facts.amount_minor - rule.max_minor
    over_number = 0 if rule.max_count is None else facts.used_count + facts.number - rule.max_count
    moved = Used(facts.used_minor - sum(minor for minor, _ in held), facts.used_count - len(held))
    ways, not_before = [], at
    for n in range(len(held) + 1):
        if n:
            released_minor, end_us = held[n - 1]
            not_before, over_minor, over_number = from_unix_us(end_us), over_minor - released_minor, over_number - 1
        least = Used(max(0, over_minor), max(0, over_number))
        if moved.minor >= least.minor and moved.number >= least.number:
            ways.append(Way(not_before, least))
    if not ways:
        return None
    return ResetRequest(shard, facts.account_id, facts.seq, rule.flow, rule.window, at, tuple(ways))


async def read_resets(connection: Connection, requests: Sequence[ResetRequest]) -> list[datetime]:
    """Return the first moment of each, in order; the caller has seen to it that there is one. One statement at most."""
    rows: list[_Wanted] = []
    places: dict[tuple[int, int], int] = {}
    for n, request in enumerate(requests):
        for m, way in enumerate(request.ways):
            if way.least != _NOTHING and request.window.unit is None:
                places[n, m] = len(rows) + 1
                rows.append(_wanted(request, way.least))
    found = dict(await connection.fetch(_REACHING, *arrays(_Wanted, rows))) if rows else {}

    def moment(n: int, m: int) -> datetime:
        window, (not_before, least) = requests[n].window, requests[n].ways[m]
        if least == _NOTHING:
            return not_before
        if window.unit is not None:
            return max(not_before, window.next_after(requests[n].at))
        assert window.rolling_seconds is not None
        leaves: datetime = found[places[n, m]] + timedelta(seconds=window.rolling_seconds)
        return max(not_before, leaves)

    return [min(moment(n, m) for m in range(len(request.ways))) for n, request in enumerate(requests)]


def _wanted(request: ResetRequest, least: Used) -> _Wanted:
    counted = [(n, type_) for n, type_ in enumerate(MOVEMENTS) if type_ in COUNTED[request.flow]]
    return _Wanted(
        request.shard,
        request.account_id,
        request.seq,
        request.window.last_before(request.at),
        "{" + ",".join(TYPES[type_] for _, type_ in counted) + "}",
        array(2 * n + 1 for n, _ in counted),
        str(least.minor),
        str(least.number),
    )


async def read_rules_of(connection: Connection, chains: Sequence[Chain]) -> list[tuple[Rule, ...]]:
    """Return the limits that are in force by each chain, in order. One statement."""
    found = await read_rules_in_force(connection, set(chains))
    return [found[chain][1] if chain in found else () for chain in chains]
