"""Judges what moves by the limits of accounts: gross, in their windows. Pure functions, as in `judge`."""

from collections.abc import Sequence

from wallet_gql.domain.holds import Hold
from wallet_gql.domain.limits import COUNTED, Enforcement, LimitFlow, Rule, Used, used_of
from wallet_gql.domain.postings import TransactionType, unix_us
from wallet_gql.domain.refusals import LimitExceeded
from wallet_gql.ledger.batch import Batch
from wallet_gql.ledger.heads import Account


def judge_limits(
    batch: Batch, account: Account, type_: TransactionType, amount_minor: int, number: int = 1
) -> LimitExceeded | None:
    """Refuse what exceeds a limit: the one that lets the least through is told. Accounts without limits pay nothing.

    `type_` is what moves, or what would: a hold is placed on what it may take. What a limit only warns of is noted.
    """
    if not account.rules:
        return None
    exceeded: list[tuple[Rule, Used]] = []
    for rule in account.rules:
        if rule.flow is LimitFlow.BALANCE:
            # Unless it only warns `judge_balance` looks at it.
            if rule.enforcement is Enforcement.REFUSE or type_ not in COUNTED[LimitFlow.IN]:
                continue
            used = Used(account.balance_minor, 0)
        elif type_ in COUNTED[rule.flow]:
            used = used_of_rule(account, rule)
        else:
            continue
        if rule.lets(used, amount_minor, number):
            continue
        if rule.enforcement is Enforcement.REFUSE:
            exceeded.append((rule, used))
        else:
            batch.exceeded.append(_warning(account, rule, used, amount_minor))
    if not exceeded:
        return None
    exceeded.sort(key=lambda each: each[0].remaining_minor(each[1]))
    return _refusal(batch, account, exceeded, amount_minor, number)


def used_of_rule(account: Account, rule: Rule) -> Used:
    """Return how much of a limit of what moves is used up: in its window, and by open holds."""
    assert account.flows is not None
    assert rule.window is not None
    moved, held = used_of(rule.flow, account.flows, account.outside[rule.window]), held_of(account, rule.flow)
    return Used(moved.minor + held.minor, moved.number + held.number)


def held_of(account: Account, flow: LimitFlow) -> Used:
    """Return what open holds of an account hold that counts in a flow: one each, whatever was captured of it."""
    holds = holds_in(account, flow)
    return Used(sum(hold.remaining_minor for hold in holds), len(holds))


def holds_in(account: Account, flow: LimitFlow) -> list[Hold]:
    """Return the open holds of an account that count in a flow, by when they end."""
    counted = COUNTED.get(flow, frozenset())
    holds = [
        hold
        for hold in account.holds.values()
        if (TransactionType.SPEND if hold.receiver is None else TransactionType.TRANSFER_OUT) in counted
    ]
    return sorted(holds, key=lambda hold: hold.held_until)


def _refusal(
    batch: Batch, account: Account, exceeded: Sequence[tuple[Rule, Used]], amount_minor: int, number: int
) -> LimitExceeded:
    (rule, used), *others = exceeded
    at = batch.now if account.executed_at is None else max(batch.now, account.executed_at)
    return LimitExceeded(
        asset=account.asset,
        rule_shard=rule.name.shard,
        rule_wallet_id=rule.name.wallet_id,
        rule_step=rule.name.step,
        used_minor=used.minor,
        used_count=used.number,
        held=" ".join(_held(account, rule)),
        amount_minor=amount_minor,
        number=number,
        at_us=unix_us(at),
        account_id=account.id,
        seq=account.seq,
        others=" ".join(
            ":".join((*map(str, (*other.name[1:], *figures)), "+".join(_held(account, other))))
            for other, figures in others
        ),
    )


def _held(account: Account, rule: Rule) -> list[str]:
    return [f"{hold.remaining_minor}@{unix_us(hold.held_until)}" for hold in holds_in(account, rule.flow)]


def _warning(account: Account, rule: Rule, used: Used, amount_minor: int) -> dict[str, object]:
    return {
        "shard": account.wallet.shard,
        "wallet_id": account.wallet.id,
        "asset": account.asset.code,
        "flow": rule.flow.name,
        "step": rule.name.step,
        "of_all": rule.name.wallet_id == 0,
        "used_minor": used.minor,
        "used_count": used.number,
        "amount_minor": amount_minor,
    }
