"""Sets and removes limits: a version more, and the answer under the key, for ever.

A wallet's key is kept with its others, under its lock: whoever posts meanwhile has committed before. What is of all
wallets is in shard 0 under wallet 0; of two at once the second conflicts, and finds another last version when it tries
again.
"""

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

import orjson
from asyncpg import Connection

from wallet_gql.domain.access import AskedBy
from wallet_gql.domain.limits import (
    LIMITS_MAX,
    LimitRequest,
    LimitsSet,
    NewLimit,
    Rule,
    RuleName,
    TooManyLimits,
    Window,
)
from wallet_gql.domain.postings import KeyReused, WalletMissing
from wallet_gql.domain.refusals import Counted, OutcomeCode
from wallet_gql.ledger.clock import read_clock
from wallet_gql.ledger.columns import array, arrays, cast, names, unnest
from wallet_gql.ledger.heads import KeyName
from wallet_gql.ledger.limits import Chain, read_rules, read_rules_in_force
from wallet_gql.ledger.locks import lock_wallets
from wallet_gql.ledger.rows import KeptRow, LimitRuleRow

_KEPT: Final = """
SELECT k.fingerprint, k.outcome, k.transaction_id, k.details::text
  FROM idempotency_key k
 WHERE k.shard = $1 AND k.wallet_id = $2 AND k.key = $3
"""

_NEXT: Final = """
SELECT greatest(wallet_now(), max(last.set_at)), coalesce(max(last.step), 0) + 1
  FROM (SELECT r.step, r.set_at FROM limit_rule r
         WHERE r.asset_id = $1 AND r.shard = $2 AND r.wallet_id = $3
         ORDER BY r.step DESC
         LIMIT 1) AS last
"""

_NOBODY: Final = AskedBy(None, None, None)


_NO_WINDOW: Final = Window()


def _insert(table: str, row: type[tuple[Any, ...]]) -> str:
    return f"INSERT INTO {table} ({names(row)}) SELECT {cast(row, 'new')} FROM {unnest(row, 'new')}"


_INSERT_RULE: Final = _insert("limit_rule", LimitRuleRow)
_INSERT_KEY: Final = _insert("idempotency_key", KeptRow)


async def change_limits(
    connection: Connection, request: LimitRequest
) -> LimitsSet | TooManyLimits | KeyReused | WalletMissing:
    """Set or remove a limit from the next batch on; what is in force so already stays as it is.

    Must run inside a transaction. A conflict with another change raises UniqueViolationError.
    """
    shard, wallet_id = 0, 0
    if request.owner is not None:
        name = request.owner.wallet_name
        wallet = (await lock_wallets(connection, [name])).get(name)
        if wallet is None:
            return WalletMissing(request.owner.owner_id)
        shard, wallet_id = wallet.shard, wallet.id
    chain = Chain(request.asset.id, shard, wallet_id)
    kept = await connection.fetchrow(_KEPT, shard, wallet_id, request.idempotency_key)
    if kept is not None:
        return await _replay(connection, chain, request, *kept)
    _, rules = (await read_rules_in_force(connection, [chain])).get(chain, (None, ()))
    change = request.change
    rule = next((rule for rule in rules if _is_meant(change, rule)), None)
    if isinstance(change, NewLimit):
        if rule is None and len(rules) >= LIMITS_MAX:
            details = {"counted": Counted.LIMITS.value, "most": LIMITS_MAX, "asset_id": request.asset.id}
            await _keep(connection, chain, request, OutcomeCode.TOO_MANY, details)
            return TooManyLimits(request.asset, already_processed=False)
        if rule is None or rule.limit != change:
            rule = await _append(connection, chain, request, rules, change)
    elif rule is not None:
        await _append(connection, chain, request, rules, rule.limit._replace(max_minor=None, max_count=None))
    step = None if rule is None else rule.name.step
    await _keep(connection, chain, request, OutcomeCode.LIMITS_SET, {"step": step, "asset_id": request.asset.id})
    return LimitsSet(rule, already_processed=False)


def _is_meant(change: NewLimit | RuleName, rule: Rule) -> bool:
    """Say whether a limit that is in force is the one to replace, or in the very version to remove."""
    return rule.name == change if isinstance(change, RuleName) else rule.subject == (change.flow, change.window)


async def _append(
    connection: Connection, chain: Chain, request: LimitRequest, before: Iterable[Rule], limit: NewLimit
) -> Rule:
    """Append a version, which takes the place of its like."""
    set_at, step = await connection.fetchrow(_NEXT, *chain)
    asked_by = request.asked_by or _NOBODY
    rule = Rule(RuleName(*chain, step), *limit, set_at, asked_by)
    in_force = [each.name.step for each in before if each.subject != rule.subject]
    if limit.max_minor is not None or limit.max_count is not None:
        in_force.append(step)
    row = LimitRuleRow(
        *rule.name,
        request.event_id,
        limit.flow,
        *(limit.window or _NO_WINDOW),
        limit.max_minor,
        limit.max_count,
        limit.enforcement,
        array(in_force),
        set_at,
        *asked_by,
    )
    await connection.execute(_INSERT_RULE, *arrays(LimitRuleRow, [row]))
    return rule


async def _keep(
    connection: Connection, chain: Chain, request: LimitRequest, outcome: OutcomeCode, details: dict[str, object]
) -> None:
    """Keep under the key how the request ended."""
    now = await read_clock(connection)
    key = KeyName(chain.shard, chain.wallet_id, request.idempotency_key)
    row = KeptRow(*key, request.fingerprint, outcome, request.event_id, now, orjson.dumps(details).decode())
    await connection.execute(_INSERT_KEY, *arrays(KeptRow, [row]))


async def _replay(
    connection: Connection,
    chain: Chain,
    request: LimitRequest,
    fingerprint: bytes,
    outcome: int,
    event_id: UUID,
    details: str | None,
) -> LimitsSet | TooManyLimits | KeyReused:
    """Answer as the key was answered before, where the same is asked for again."""
    if fingerprint != request.fingerprint:
        return KeyReused(request.idempotency_key)
    # What is replayed after an unknown COMMIT finds its own work: that is no second request.
    is_again = event_id != request.event_id
    if outcome == OutcomeCode.TOO_MANY:
        return TooManyLimits(request.asset, already_processed=is_again)
    assert details is not None
    step = orjson.loads(details)["step"]
    (rule,) = [None] if step is None else await read_rules(connection, [RuleName(*chain, step)])
    return LimitsSet(rule, already_processed=is_again)
