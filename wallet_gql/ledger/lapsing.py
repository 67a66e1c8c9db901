"""What of lots has lapsed and is not booked yet: look-ups that an account costs only while something of it is due.

From its end on, what of a lot is in no open hold is nobody's. A hold that is over keeps nothing, booked or not.
"""

from typing import Final

from wallet_gql.ledger.lookups import HOLDING, IS_DUE, NOW, one_row
from wallet_gql.ledger.lots import LAST_LOT_STEP

LIVE: Final = f"""{one_row("entry", "listed", by="seq", shard="a.shard", account_id="a.id", seq="head.lots_seq")}
        CROSS JOIN unnest(listed.live_lots) AS live(n)
        CROSS JOIN {one_row("lot", "o", by="n", shard="a.shard", account_id="a.id", n="live.n")}
        CROSS JOIN {LAST_LOT_STEP}"""
"""Each lot `o` of the account `a` that has something left after its `head`, and its `last` step."""

LAPSED: Final = f"""
CASE WHEN {IS_DUE} THEN (
       SELECT coalesce(sum(last.remaining), 0)::bigint
         FROM {LIVE}
        WHERE o.expires_at <= {NOW})
     - (SELECT coalesce(sum(earmark.amount), 0)::bigint
         FROM {HOLDING}
        CROSS JOIN unnest(holding.lots, holding.earmarks) AS earmark(lot, amount)
        CROSS JOIN {one_row("lot", "o", by="n", shard="a.shard", account_id="a.id", n="earmark.lot")}
        WHERE holding.held_until > {NOW} AND o.expires_at <= {NOW})
     ELSE 0 END"""
"""What the balance after the `head` of the account `a` has that has lapsed."""

KEPT: Final = f"""LATERAL (
       SELECT array_agg(kept.lot) AS lots, array_agg(kept.amount) AS amounts
         FROM (SELECT earmark.lot, sum(earmark.amount)::bigint AS amount
                 FROM {HOLDING}
                CROSS JOIN unnest(holding.lots, holding.earmarks) AS earmark(lot, amount)
                WHERE {IS_DUE} AND holding.held_until > {NOW}
                GROUP BY earmark.lot) AS kept) AS kept"""
"""What open holds that are not over have of which lots of the account `a`, looked up where something of it is due."""


def kept_of(lot: str, booked: str) -> str:
    """Return what such holds have of a lot by `KEPT`: as long as nothing is due, it is what is booked."""
    return f"""
CASE WHEN {IS_DUE} THEN coalesce(
       (SELECT each.amount FROM unnest(kept.lots, kept.amounts) AS each(lot, amount) WHERE each.lot = {lot}), 0)
     ELSE {booked} END"""
