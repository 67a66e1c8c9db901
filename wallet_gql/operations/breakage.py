"""Reports what became of bonuses in a period, by asset and campaign, and proves it against the books."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from wallet_gql.db.engine import close, create_engine
from wallet_gql.db.migrations import check_at_head
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.money import format_minor
from wallet_gql.ledger.breakage import CampaignFlows, read_flows
from wallet_gql.ledger.clock import read_clock
from wallet_gql.ledger.reads import read_shard_count
from wallet_gql.operations.proof import snapshot
from wallet_gql.settings import Settings


async def report_breakage(settings: Settings, since: datetime, until: datetime) -> list[CampaignFlows]:
    """Return what became of each campaign's credits from a time on until another, sorted by asset and campaign.

    It ends now at the latest. One snapshot, in which all lots are read, shard by shard. Raises `BadUserInput` for a
    period that is none.
    """
    if since >= until:
        raise BadUserInput("until", "is not after since", "send a period that begins before it ends")
    engine = create_engine(settings, may_be_standby=True)
    found: dict[tuple[str, str | None], list[CampaignFlows]] = defaultdict(list)
    try:
        await check_at_head(engine)
        async with snapshot(engine) as connection:
            until = min(until, await read_clock(connection))
            for shard in range(await read_shard_count(connection)):
                async for flows in read_flows(connection, shard, since, until):
                    found[flows.asset_code, flows.campaign].append(flows)
    finally:
        await close(engine)
    in_order = sorted(found, key=lambda key: (key[0], key[1] is not None, key[1] or ""))
    return [_sum(found[key]) for key in in_order]


def _sum(flows: list[CampaignFlows]) -> CampaignFlows:
    """Add up what became of a campaign in each shard."""
    first = flows[0]
    sums = (sum(figures) for figures in zip(*(each[3:] for each in flows), strict=True))
    return CampaignFlows(first.asset_code, first.scale, first.campaign, *sums)


def table_of(flows: Sequence[CampaignFlows]) -> Table:
    """Show a report to people: a line a campaign, `-` for bonuses of none."""
    table = Table("asset", "campaign")
    for name in CampaignFlows._fields[3:-1]:
        table.add_column(name.removesuffix("_minor").replace("_", " "), justify="right")
    table.add_column("proven")
    for each in flows:
        figures = (format_minor(figure, each.scale) for figure in each[3:-1])
        table.add_row(each.asset_code, _shown(each.campaign), *figures, "yes" if each.is_proven else "NO")
    return table


def _shown(campaign: str | None) -> str:
    """Show what callers wrote as text, whatever it says to a terminal."""
    return "-" if campaign is None else escape("".join(each if each.isprintable() else "?" for each in campaign))
