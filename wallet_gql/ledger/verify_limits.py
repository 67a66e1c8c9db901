"""Proves limits, as `verify` does: their versions, what entries count of what moved, and what limits refused.

A refusal is proved by the log. What moved in a rolling window is counted again, and so is what open holds held. Where a
calendar's window begins is not computed, because the database's time zone data may differ from the service's: what the
refusal says must be what moved since some moment of the last 2, 8 or 32 days, for a day, a week or a month.

Books in which nothing was ever limited pay nothing for these checks: the checks of chains and keys find what says
otherwise.
"""

from typing import Final

from wallet_gql.domain.limits import (
    COUNT_MAX,
    COUNTED,
    LIMITS_MAX,
    MOVEMENTS,
    ROLLING_SECONDS_MAX,
    CalendarUnit,
    Enforcement,
    LimitFlow,
)
from wallet_gql.domain.money import MINOR_MAX
from wallet_gql.domain.postings import RequestKind, TransactionType
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.ledger.limits import TYPES
from wallet_gql.ledger.lookups import one_row
from wallet_gql.ledger.verify_lots import SETTING_SLACK
from wallet_gql.ledger.verify_terms import ANY_LIMIT, LATEST, USER, any_fault, first_fault

_BALANCE: Final = f"{LimitFlow.BALANCE:d}"
_REFUSE: Final = f"{Enforcement.REFUSE:d}"


def _version(rule: str) -> str:
    """Return an expression: what names a version of a limit."""
    of = f"CASE {rule}.wallet_id WHEN 0 THEN 'all wallets' ELSE 'wallet ' || {rule}.wallet_id END"
    return f"format('version %s of the limits of %s in asset %s', {rule}.step, {of}, {rule}.asset_id)"


_HAS_MAXIMUM: Final = "num_nonnulls({0}.max_amount, {0}.max_count) > 0"

_BEFORE: Final = one_row(
    "limit_rule", "l", by="step", asset_id="r.asset_id", shard="r.shard", wallet_id="r.wallet_id", step="before.step"
)

_IN_FORCE: Final = f"""(ARRAY(
             SELECT l.step
               FROM unnest(r.in_force_before) WITH ORDINALITY AS before(step, place)
              CROSS JOIN {_BEFORE}
              WHERE (l.flow, l.rolling_seconds, l.calendar_unit, l.time_zone)
                    IS DISTINCT FROM (r.flow, r.rolling_seconds, r.calendar_unit, r.time_zone)
              ORDER BY before.place)
             || CASE WHEN {_HAS_MAXIMUM.format("r")} THEN ARRAY[r.step] ELSE '{{}}' END)"""
"""What is in force after a version: what was so before it without its like, and itself if it has a maximum."""

# Each fault of a version with the condition that finds it; the first that is met is told.
_LIMIT_FAULTS: Final = {
    "r.known_asset IS NULL": "'its asset does not exist'",
    "r.wallet_id = 0 AND r.shard <> 0": "'is of all wallets, but not in shard 0'",
    f"r.wallet_id <> 0 AND r.wallet_kind IS DISTINCT FROM {USER}": "'its wallet is not an owner''s'",
    "r.step <> r.step_before + 1": "format('follows version %s', r.step_before)",
    f"(r.flow IN ({', '.join(f'{flow:d}' for flow in LimitFlow)})) IS NOT TRUE": (
        "format('is of flow %s, which does not exist', r.flow)"
    ),
    f"""num_nonnulls(r.rolling_seconds, r.calendar_unit) <> (r.flow <> {_BALANCE})::int
          OR (r.calendar_unit IS NULL) <> (r.time_zone IS NULL)
          OR r.rolling_seconds NOT BETWEEN 1 AND {ROLLING_SECONDS_MAX}
          OR r.calendar_unit NOT IN ({", ".join(f"{unit:d}" for unit in CalendarUnit)})
          OR length(r.time_zone) NOT BETWEEN 1 AND 64""": (
        "format('has no window of flow %s: %s seconds, unit %s in %s', r.flow,"
        " coalesce(r.rolling_seconds::text, 'no'), coalesce(r.calendar_unit::text, 'none'),"
        " coalesce(r.time_zone, 'no time zone'))"
    ),
    f"""r.max_amount NOT BETWEEN 1 AND {MINOR_MAX} OR r.max_count NOT BETWEEN 1 AND {COUNT_MAX}
          OR (r.flow = {_BALANCE} AND r.max_count IS NOT NULL)""": (
        "format('has no maximum of flow %s: %s, %s movements', r.flow,"
        " coalesce(r.max_amount::text, 'any amount'), coalesce(r.max_count::text, 'any number of'))"
    ),
    f"(r.enforcement IN ({', '.join(f'{each:d}' for each in Enforcement)})) IS NOT TRUE": (
        "format('is enforced by %s, which does not exist', r.enforcement)"
    ),
    "(r.set_at > '-infinity') IS NOT TRUE": "'has no time'",
    f"r.set_at > {LATEST}": "format('is dated in the future: %s', r.set_at)",
    "r.set_at < r.set_before": "'is older than the version before it'",
    f"r.in_force IS DISTINCT FROM {_IN_FORCE}": (
        f"format('says that versions %s are in force after it, but %s are', r.in_force, {_IN_FORCE})"
    ),
    f"cardinality(r.in_force) > {LIMITS_MAX}": "format('lets %s limits be in force', cardinality(r.in_force))",
}


def _field(name: str, text: str) -> str:
    """Return a field of a fingerprint, as `domain.postings` writes it; left out where it is NULL."""
    return f"coalesce(' {name} ' || length({text}) || ':' || {text}, '')"


def _fingerprint(text: str) -> str:
    return f"substr(sha256(convert_to({text}, 'UTF8')), 1, 16)"


def _name_of(column: str, kinds: type[LimitFlow] | type[CalendarUnit]) -> str:
    names = " ".join(f"WHEN {kind:d} THEN '{kind.name}'" for kind in kinds)
    return f"CASE {column} {names} END"


_NAME: Final = "concat_ws(':', named.asset_id, named.shard, named.wallet_id, named.step)"

_ASKED: Final = _fingerprint(f"""CASE WHEN made.id IS NULL OR {_HAS_MAXIMUM.format("made")}
            THEN '{RequestKind.SET_LIMIT:d} ' || s.code || ' ' || coalesce(named.max_amount, 0) || ' --'
                 || CASE named.enforcement WHEN {_REFUSE} THEN '' ELSE ' enforcement 4:{Enforcement.WARN.name}' END
                 || {_field("flow", _name_of("named.flow", LimitFlow))}
                 || {_field("maxCount", "named.max_count::text")} || {_field("owner", "w.owner_id")}
                 || {_field("rollingSeconds", "named.rolling_seconds::text")}
                 || {_field("timeZone", "named.time_zone")}
                 || {_field("unit", _name_of("named.calendar_unit", CalendarUnit))}
            ELSE '{RequestKind.REMOVE_LIMIT:d} ' || s.code || ' 0 --' || {_field("limit", _NAME)} END""")
"""The fingerprint of a request that set the version `named`, or that removed it by the version `made`."""

_KEY_FAULTS: Final = {
    "k.key IS NULL": "'no key asked for it'",
    "(k.details ? 'step') IS NOT TRUE": "'does not say which version of a limit it set'",
    "made.id IS NULL AND k.step IS NOT NULL AND named.step IS NULL": (
        "format('says that it set version %s of limits in asset %s, which does not exist', k.step, k.asset_id)"
    ),
    # What was removed is named by the version that was in force until then.
    f"""made.id IS NOT NULL AND CASE WHEN {_HAS_MAXIMUM.format("made")} THEN named.id = made.id
          ELSE named.step = ANY (until.in_force) AND named.step <> ALL (made.in_force) END IS NOT TRUE""": (
        f"format('is not the key of %s', {_version('made')})"
    ),
    f"k.step IS NOT NULL AND k.fingerprint IS DISTINCT FROM {_ASKED}": (
        f"format('its fingerprint is not what %s gives', {_version('named')})"
    ),
}

_MOVED: Final = ", ".join(
    f"coalesce(e.flows_before[{2 * n + m}], 0)"
    f" + CASE WHEN e.amount <> 0 AND e.type IN ({TYPES[type_]}) THEN {added} ELSE 0 END"
    for n, type_ in enumerate(MOVEMENTS)
    for m, added in ((1, "abs(e.amount::numeric)"), (2, "1"))
)
_FLOWS: Final = f"ARRAY[{_MOVED}, coalesce(e.flows_before[{2 * len(MOVEMENTS) + 1}], e.seq)]::numeric[]"
"""What moved so far, after what moved before the entry `e` and what it moves itself."""

_LIMITED_SINCE: Final = f"""(
               SELECT asset_id, shard, wallet_id, min(set_at) AS at FROM limit_rule
                WHERE flow <> {_BALANCE} GROUP BY asset_id, shard, wallet_id)"""
"""Since when what moves was ever limited."""

_FLOW_FAULTS: Final = {
    "e.flows IS NULL AND e.flows_before IS NOT NULL": "'does not count what moved, as the entry before it does'",
    f"e.flows IS NOT NULL AND a.wallet_kind IS DISTINCT FROM {USER}": "'counts what moved, but is not an owner''s'",
    f"e.flows <> {_FLOWS}": f"format('says that %s moved, but it should be %s', e.flows, {_FLOWS})",
    f"""e.flows IS NOT NULL AND e.flows_before IS NULL
          AND (least(of_all.at, own.at) <= e.executed_at + {SETTING_SLACK}) IS NOT TRUE""": (
        "'counts what moved, but that was not limited'"
    ),
}

# What a refusal by a limit keeps as numbers: of the request, and of each limit that it exceeded. What moved in all has
# no bound.
_OF_REQUEST: Final = ("asset_id", "amount_minor", "number", "at_us", "account_id", "seq")
_OF_LIMIT: Final = {
    "rule_shard": "bigint",
    "rule_wallet_id": "bigint",
    "rule_step": "bigint",
    "used_minor": "numeric",
    "used_count": "bigint",
}

_DIGITS: Final = {"bigint": "[0-9]{1,16}", "numeric": "[0-9]{1,40}"}
_HELD_BY: Final = "([0-9]{{1,18}}@[0-9]{{1,16}}({0}[0-9]{{1,18}}@[0-9]{{1,16}})*)?"
_OTHER: Final = ":".join((*map(_DIGITS.__getitem__, _OF_LIMIT.values()), _HELD_BY.format(r"\+")))
_SHAPES: Final = {
    **dict.fromkeys(_OF_REQUEST, _DIGITS["bigint"]),
    **{name: _DIGITS[type_] for name, type_ in _OF_LIMIT.items()},
    "held": _HELD_BY.format(" "),
    "others": f"({_OTHER}( {_OTHER})*)?",
}
_IS_WHOLE: Final = " AND ".join(f"k.details ->> '{name}' ~ '^{shape}$'" for name, shape in _SHAPES.items())

_FACTS: Final = ", ".join(
    f"CASE WHEN k.is_whole THEN (k.details ->> '{name}')::bigint END AS {name}" for name in _OF_REQUEST
)
# The limit that is told, and the others that were exceeded as well.
_TOLD: Final = ", ".join(
    f"CASE WHEN k.is_whole THEN (k.details ->> '{name}')::{type_} END AS {name}" for name, type_ in _OF_LIMIT.items()
)
_WITH_IT: Final = ", ".join(
    f"split_part(each, ':', {n})::{type_}" for n, type_ in enumerate(_OF_LIMIT.values(), start=1)
)

# The flows with the types of transactions that count in them.
_COUNTS: Final = ", ".join(
    f"({flow:d}, {type_})"
    for flow, kinds in COUNTED.items()
    for kind in kinds
    for type_ in TYPES[kind].split(", ")
)  # fmt: skip


def _that_count(kind: TransactionType) -> str:
    return ", ".join(f"{flow:d}" for flow, kinds in COUNTED.items() if kind in kinds)


_DAYS: Final = {CalendarUnit.DAY: 2, CalendarUnit.WEEK: 8, CalendarUnit.MONTH: 32}
_SECONDS: Final = " ".join(f"WHEN {unit:d} THEN {days * 86_400}" for unit, days in _DAYS.items())
_LENGTH: Final = f"CASE r.calendar_unit {_SECONDS} ELSE r.rolling_seconds END * interval '1 s'"
"""How long a window is; of the calendar's a day more than the longest is, for time zones change."""

_HOLD: Final = """((last.amount - last.captured - last.released) || '@'
                      || (extract(epoch FROM last.held_until) * 1000000)::bigint)"""
"""A hold, as a refusal keeps it."""

_OPEN: Final = f"""ARRAY(
             SELECT {_HOLD}
               FROM hold_step h
              CROSS JOIN unnest(h.open_holds) AS is_open(id)
              CROSS JOIN LATERAL (
                    SELECT * FROM hold_step l
                     WHERE l.shard = $1 AND l.hold_id = is_open.id AND l.seq <= r.seq
                     ORDER BY l.step DESC LIMIT 1) AS last
              CROSS JOIN {one_row("hold", "o", by="id", shard="h.shard", id="is_open.id")}
              WHERE h.shard = $1 AND h.account_id = r.account_id AND h.seq = head.held_seq
                AND CASE WHEN o.receiver_shard IS NULL THEN r.flow IN ({_that_count(TransactionType.SPEND)})
                         ELSE r.flow IN ({_that_count(TransactionType.TRANSFER_OUT)}) END
              ORDER BY {_HOLD} COLLATE "C")"""
"""What open holds that count in a limit held after an entry, as a refusal keeps it, in another order."""

_HELD: Final = """ARRAY(SELECT each FROM unnest(string_to_array(r.held, ' ')) AS each ORDER BY each COLLATE "C")"""

# Whether another version had taken its place, or it was removed. What was judged by it may be a little later.
_IS_OVER: Final = f"""EXISTS (
             SELECT FROM limit_rule v
              WHERE v.asset_id = r.asset_id AND v.shard = r.rule_shard AND v.wallet_id = r.rule_wallet_id
                AND v.step > r.step AND v.set_at < r.at - {SETTING_SLACK} AND r.step <> ALL (v.in_force))"""

_NAMED: Final = "format('version %s of the limits of wallet %s (shard %s)', rule_step, rule_wallet_id, rule_shard)"

_REFUSAL_FAULTS: Final = {
    "NOT r.is_whole": "'does not say on what it was judged'",
    "r.account_id IS DISTINCT FROM r.own_account AND (r.account_id, r.seq) <> (0, 0)": (
        "format('was judged on account %s, which is not its wallet''s', r.account_id)"
    ),
    "r.step IS NULL": f"format('names %s, which does not exist', {_NAMED})",
    "(r.rule_shard, r.rule_wallet_id) NOT IN ((0, 0), ($1, r.wallet_id))": (
        f"format('names %s, which is another wallet''s', {_NAMED})"
    ),
    f"r.flow = {_BALANCE} OR r.enforcement <> {_REFUSE} OR NOT {_HAS_MAXIMUM.format('r')}": (
        f"format('names %s, which refuses nothing that moves', {_NAMED})"
    ),
    f"r.set_at > r.at + {SETTING_SLACK} OR {_IS_OVER}": (
        f"format('names %s, which was not in force at %s', {_NAMED}, r.at)"
    ),
    "r.seq > 0 AND head.seq IS NULL": "format('was judged after seq %s, which does not exist', r.seq)",
    "r.at <> greatest(r.created_at, head.executed_at)": (
        "format('was judged at %s, but should be at %s', r.at, greatest(r.created_at, head.executed_at))"
    ),
    f"next.executed_at < r.at - {SETTING_SLACK}": (
        "format('was judged after seq %s, but seq %s was there', r.seq, next.seq)"
    ),
    f"{_HELD} <> {_OPEN}": f"format('says that holds held %s, but it should be %s', {_HELD}, {_OPEN})",
    # Where an entry of the same batch is ahead of the clock, the window that was counted had ended with the clock.
    f"""r.moved_count < 0 OR r.moved_minor <> coalesce(head.minor, 0) - coalesce(outside.minor, 0)
          OR (r.moved_count > 0 AND (inside.executed_at > r.created_at - {_LENGTH}) IS NOT TRUE)
          OR (r.rolling_seconds IS NOT NULL AND outside.executed_at > r.at - {_LENGTH})""": (
        "format('says that %s moved by %s movements in its window, which is not so', r.moved_minor, r.moved_count)"
    ),
    "(r.used_minor + r.amount_minor > r.max_amount OR r.used_count + r.number > r.max_count) IS NOT TRUE": (
        f"format('says that %s was exceeded, but it was not', {_NAMED})"
    ),
}

# Each returns (row, fault) for a shard.
LIMIT_CHECKS: Final = {
    "limit": f"""
        SELECT {_version("r")}, {first_fault(_LIMIT_FAULTS)}
          FROM (SELECT r.*, s.id AS known_asset, w.kind AS wallet_kind,
                       coalesce(lag(r.step) OVER chain, 0) AS step_before,
                       lag(r.set_at) OVER chain AS set_before, lag(r.in_force) OVER chain AS in_force_before
                  FROM limit_rule r
                  LEFT JOIN asset s ON s.id = r.asset_id
                  LEFT JOIN wallet w ON w.shard = $1 AND w.id = r.wallet_id
                 WHERE r.shard = $1
                WINDOW chain AS (PARTITION BY r.asset_id, r.wallet_id ORDER BY r.step)) AS r
         WHERE {any_fault(_LIMIT_FAULTS)}
         ORDER BY r.asset_id, r.wallet_id, r.step""",
    "key of a limit": f"""
        SELECT CASE WHEN k.key IS NULL THEN {_version("made")}
                    ELSE format('key %s of wallet %s', k.key, k.wallet_id) END,
               {first_fault(_KEY_FAULTS)}
          FROM (SELECT *, details ->> 'step' AS step, details ->> 'asset_id' AS asset_id
                  FROM idempotency_key
                 WHERE shard = $1 AND outcome = {OutcomeCode.LIMITS_SET:d} AND {ANY_LIMIT}) AS k
          FULL JOIN (SELECT * FROM limit_rule WHERE shard = $1) AS made
            ON (made.id, made.wallet_id, made.asset_id::text) = (k.transaction_id, k.wallet_id, k.asset_id)
          LEFT JOIN limit_rule until
            ON until.shard = $1 AND (until.asset_id, until.wallet_id, until.step)
                                  = (made.asset_id, made.wallet_id, made.step - 1)
          LEFT JOIN limit_rule named
            ON named.shard = $1 AND (named.wallet_id, named.asset_id::text, named.step::text)
                                  = (k.wallet_id, k.asset_id, k.step)
          LEFT JOIN asset s ON s.id = named.asset_id
          LEFT JOIN wallet w ON w.shard = $1 AND w.id = named.wallet_id
         WHERE {any_fault(_KEY_FAULTS)}
         ORDER BY 1""",
    "flows": f"""
        SELECT format('account %s, seq %s', e.account_id, e.seq), {first_fault(_FLOW_FAULTS)}
          FROM (SELECT e.account_id, e.seq, e.type, e.amount, e.executed_at, e.flows,
                       lag(e.flows) OVER (PARTITION BY e.account_id ORDER BY e.seq) AS flows_before
                  FROM entry e
                 WHERE e.shard = $1
                   AND e.account_id IN (
                       SELECT c.account_id FROM entry c WHERE c.shard = $1 AND c.flows IS NOT NULL AND {ANY_LIMIT})
               ) AS e
          LEFT JOIN account a ON a.shard = $1 AND a.id = e.account_id
          LEFT JOIN {_LIMITED_SINCE} AS of_all
            ON of_all.asset_id = a.asset_id AND of_all.shard = 0 AND of_all.wallet_id = 0
          LEFT JOIN {_LIMITED_SINCE} AS own
            ON own.asset_id = a.asset_id AND own.shard = $1 AND own.wallet_id = a.wallet_id
         WHERE {any_fault(_FLOW_FAULTS)}
         ORDER BY e.account_id, e.seq""",
    # Each limit that was exceeded is proved. What moved in all by each entry is summed once for each account and flow:
    # of two entries the difference tells what moved between them.
    "limit exceeded": f"""
        WITH kept AS MATERIALIZED (
          SELECT k.wallet_id, k.key, k.created_at, k.details, ({_IS_WHOLE}) IS TRUE AS is_whole
            FROM idempotency_key k
           WHERE k.shard = $1 AND k.outcome = {OutcomeCode.LIMIT_EXCEEDED:d} AND {ANY_LIMIT}
        ), facts AS MATERIALIZED (
          SELECT k.wallet_id, k.key, k.created_at, k.is_whole, {_FACTS}, told.*
            FROM kept k
           CROSS JOIN LATERAL (
                 SELECT {_TOLD}, k.details ->> 'held' AS held
                  UNION ALL
                 SELECT {_WITH_IT}, replace(split_part(each, ':', {len(_OF_LIMIT) + 1}), '+', ' ')
                   FROM unnest(CASE WHEN k.is_whole THEN string_to_array(k.details ->> 'others', ' ') END) AS each
                 ) AS told
        ), refusal AS MATERIALIZED (
          SELECT f.*, 'epoch'::timestamptz + f.at_us * interval '1 us' AS at,
                 f.used_minor - held.minor AS moved_minor, f.used_count - held.number AS moved_count,
                 a.id AS own_account, r.step, r.flow, r.rolling_seconds, r.calendar_unit, r.max_amount, r.max_count,
                 r.enforcement, r.set_at
            FROM facts f
           CROSS JOIN LATERAL (
                 SELECT coalesce(sum(split_part(each, '@', 1)::numeric), 0) AS minor, count(*) AS number
                   FROM unnest(CASE WHEN f.is_whole THEN string_to_array(f.held, ' ') END) AS each) AS held
            LEFT JOIN account a ON a.shard = $1 AND a.wallet_id = f.wallet_id AND a.asset_id = f.asset_id
            LEFT JOIN limit_rule r ON (r.asset_id, r.shard, r.wallet_id, r.step)
                                    = (f.asset_id, f.rule_shard, f.rule_wallet_id, f.rule_step)
        ), moved AS MATERIALIZED (
          SELECT e.account_id, e.flow, e.seq, e.executed_at, e.held_seq, e.is_counted,
                 coalesce(sum(abs(e.amount::numeric)) FILTER (WHERE e.is_counted) OVER so_far, 0) AS minor,
                 count(*) FILTER (WHERE e.is_counted) OVER so_far AS number
            FROM (SELECT e.*, w.flow, (w.flow, e.type) IN ({_COUNTS}) AS is_counted
                    FROM (SELECT DISTINCT own_account, flow FROM refusal) AS w
                    JOIN entry e ON e.shard = $1 AND e.account_id = w.own_account) AS e
          WINDOW so_far AS (PARTITION BY e.account_id, e.flow ORDER BY e.seq)
        )
        SELECT DISTINCT format('key %s of wallet %s', r.key, r.wallet_id), {first_fault(_REFUSAL_FAULTS)}
          FROM refusal r
          LEFT JOIN moved head ON (head.account_id, head.flow, head.seq) = (r.own_account, r.flow, r.seq)
          LEFT JOIN moved next ON (next.account_id, next.flow, next.seq) = (r.own_account, r.flow, r.seq + 1)
          LEFT JOIN moved outside
            ON (outside.account_id, outside.flow, outside.number)
             = (r.own_account, r.flow, head.number - r.moved_count) AND outside.is_counted
          LEFT JOIN moved inside
            ON (inside.account_id, inside.flow, inside.number)
             = (r.own_account, r.flow, head.number - r.moved_count + 1) AND inside.is_counted
         WHERE {any_fault(_REFUSAL_FAULTS)}
         ORDER BY 1""",
}
"""Each returns (row, fault) for a shard, as all checks of `verify` do."""
