"""What became of bonuses, campaign by campaign: what finance asks of a programme whose credits expire.

What has lapsed counts from its end on, or from when the last hold of it was closed, whether or not it is booked: so a
report of a time that is over never changes.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final, NamedTuple

from asyncpg import Connection

from wallet_gql.domain.postings import TransactionType


class CampaignFlows(NamedTuple):
    """What became of a campaign's credits in a period, in minor units: all but `moved_minor` are positive.

    `before` and what follows come to `outstanding`: `is_proven` says whether they do, by what remains in the lots.
    """

    asset_code: str
    scale: int
    campaign: str | None
    before_minor: int
    granted_minor: int
    returned_minor: int
    moved_minor: int
    spent_minor: int
    expired_minor: int
    clawed_back_minor: int
    forfeited_minor: int
    outstanding_minor: int
    remaining_minor: int

    @property
    def is_proven(self) -> bool:
        """Whether what flowed explains what remains."""
        gained = self.granted_minor + self.returned_minor + self.moved_minor
        lost = self.spent_minor + self.expired_minor + self.clawed_back_minor + self.forfeited_minor
        return self.before_minor + gained - lost == self.outstanding_minor == self.remaining_minor


_FLOWS: Final = {
    "granted": ((TransactionType.BONUS,), 1),
    "returned": ((TransactionType.REFUND,), 1),
    "moved": ((TransactionType.TRANSFER_IN, TransactionType.TRANSFER_OUT), 1),
    "spent": ((TransactionType.SPEND, TransactionType.CAPTURE), -1),
    "clawed_back": ((TransactionType.CLAWBACK, TransactionType.REPAYMENT), -1),
    "forfeited": ((TransactionType.FORFEIT,), -1),
}
"""What changes lots, but for what expires: types, and the sign by which it is told."""


def _flow(name: str) -> str:
    types, sign = _FLOWS[name]
    numbers = ", ".join(f"{type_:d}" for type_ in types)
    return f"""{sign} * coalesce(sum(s.change) FILTER (
                        WHERE s.type IN ({numbers}) AND s.at >= $2 AND s.at < $3), 0)::bigint AS {name}"""


# Each lot's steps with their times; what lapsed, booked or not, at the time since when it is so.
_STEPS: Final = f"""
       SELECT s.account_id, s.lot, s.change, e.type,
              CASE WHEN e.type = {TransactionType.EXPIRY:d}
                   THEN greatest(o.expires_at, lag(e.executed_at) OVER of_lot) ELSE e.executed_at END AS at
         FROM lot_step s
         JOIN lot o ON o.shard = $1 AND o.account_id = s.account_id AND o.n = s.lot
         JOIN entry e ON e.shard = $1 AND e.account_id = s.account_id AND e.seq = s.seq
        WHERE s.shard = $1
       WINDOW of_lot AS (PARTITION BY s.account_id, s.lot ORDER BY s.step)
        UNION ALL
       SELECT o.account_id, o.n, last.held - last.remaining, {TransactionType.EXPIRY:d},
              greatest(o.expires_at, last.executed_at)
         FROM lot o
         JOIN (SELECT DISTINCT ON (s.account_id, s.lot) s.account_id, s.lot, s.remaining, s.held, e.executed_at
                 FROM lot_step s
                 JOIN entry e ON e.shard = $1 AND e.account_id = s.account_id AND e.seq = s.seq
                WHERE s.shard = $1
                ORDER BY s.account_id, s.lot, s.step DESC) AS last ON (last.account_id, last.lot) = (o.account_id, o.n)
        WHERE o.shard = $1 AND o.expires_at < $3 AND last.remaining > last.held"""

# What remained of each lot at the end by its last step until then, without what had lapsed.
_REMAINING: Final = """
       SELECT DISTINCT ON (s.account_id, s.lot) s.account_id, s.lot,
              CASE WHEN o.expires_at < $3 THEN s.held ELSE s.remaining END AS remaining
         FROM lot_step s
         JOIN lot o ON o.shard = $1 AND o.account_id = s.account_id AND o.n = s.lot
         JOIN entry e ON e.shard = $1 AND e.account_id = s.account_id AND e.seq = s.seq
        WHERE s.shard = $1 AND e.executed_at < $3
        ORDER BY s.account_id, s.lot, s.step DESC"""

_CAMPAIGNS: Final = f"""
WITH steps AS MATERIALIZED ({_STEPS}), remaining AS MATERIALIZED ({_REMAINING})
SELECT c.code, c.scale, flows.*, coalesce(left_over.remaining, 0)::bigint AS remaining
  FROM (SELECT a.asset_id, o.campaign,
               coalesce(sum(s.change) FILTER (WHERE s.at < $2), 0)::bigint AS before,
               {", ".join(map(_flow, ("granted", "returned", "moved", "spent")))},
               -coalesce(sum(s.change) FILTER (
                         WHERE s.type = {TransactionType.EXPIRY:d} AND s.at >= $2 AND s.at < $3), 0)::bigint AS expired,
               {", ".join(map(_flow, ("clawed_back", "forfeited")))},
               coalesce(sum(s.change) FILTER (WHERE s.at < $3), 0)::bigint AS outstanding
          FROM steps s
          JOIN lot o ON o.shard = $1 AND o.account_id = s.account_id AND o.n = s.lot
          JOIN account a ON a.shard = $1 AND a.id = o.account_id
         GROUP BY a.asset_id, o.campaign) AS flows
  JOIN asset c ON c.id = flows.asset_id
  LEFT JOIN (SELECT a.asset_id, o.campaign, sum(r.remaining) AS remaining
               FROM remaining r
               JOIN lot o ON o.shard = $1 AND o.account_id = r.account_id AND o.n = r.lot
               JOIN account a ON a.shard = $1 AND a.id = o.account_id
              GROUP BY a.asset_id, o.campaign) AS left_over
    ON left_over.asset_id = flows.asset_id AND left_over.campaign IS NOT DISTINCT FROM flows.campaign
 WHERE (flows.before, flows.granted, flows.returned, flows.moved, flows.outstanding) <> (0, 0, 0, 0, 0)
"""


async def read_flows(
    connection: Connection, shard: int, since: datetime, until: datetime
) -> AsyncIterator[CampaignFlows]:
    """Yield what became of each campaign's credits in a shard from a time on until another; reads all lots."""
    for code, scale, _, *row in await connection.fetch(_CAMPAIGNS, shard, since, until):
        yield CampaignFlows(code, scale, *row)
