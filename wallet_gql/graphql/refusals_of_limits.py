"""Refusals that are about limits."""

from asyncio import gather
from datetime import datetime
from typing import Self

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain import refusals as kept
from wallet_gql.domain.limits import Rule, RuleName, Used
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.errors import Error, ErrorCode, Replayable, kept_fields
from wallet_gql.graphql.limits import Limit
from wallet_gql.graphql.scalars import Amount, amount
from wallet_gql.ledger.limit_reads import reset_of


@strawberry.type(description="There is no such limit.")
class LimitNotFound(Error):
    """There is no such limit."""

    limit_id: strawberry.ID = strawberry.field(description="The id that was sent.")

    @classmethod
    def of(cls, limit_id: str) -> Self:
        """Make it from the id."""
        return cls(
            code=ErrorCode.LIMIT_NOT_FOUND,
            message="Limit not found: send the id of a limit as it was received",
            retryable=False,
            limit_id=strawberry.ID(limit_id),
        )


@strawberry.type(
    description="More would move than a limit lets, in its window; of several, the one that lets the least through."
    " Kept under the key: a late retry is refused too."
)
class LimitExceeded(Error, Replayable):
    """More would move than a limit lets."""

    refused: strawberry.Private[domain.Refused]
    facts: strawberry.Private[kept.LimitExceeded]

    @strawberry.field(description="The limit, as it was when the request was refused.")
    async def rule(self, info: Info) -> Limit:
        """Show the limit."""
        rule = await self._rule(info)
        owner_id = self.refused.balance.wallet.owner_id if rule.name.wallet_id else None
        return Limit(rule=rule, of_asset=self.facts.asset, owner_id=owner_id)

    @strawberry.field(description="What had moved in its window, with what open holds held.")
    def used(self) -> Amount:
        """Say how much."""
        return amount(self.facts.used_minor, self.facts.asset)

    @strawberry.field(description="How many movements that were, an open hold counting as one.")
    def used_count(self) -> int:
        """Say how many."""
        return self.facts.used_count

    @strawberry.field(description="How much could still have moved at once; never negative.")
    async def remaining(self, info: Info) -> Amount:
        """Say how much."""
        return amount((await self._rule(info)).remaining_minor(self._used), self.facts.asset)

    @strawberry.field(description="How many movements there could still have been; null where they are not limited.")
    async def remaining_count(self, info: Info) -> int | None:
        """Say how many."""
        return (await self._rule(info)).remaining_count(self._used)

    @strawberry.field(description="What the request needed.")
    def required(self) -> Amount:
        """Say how much."""
        return amount(self.facts.amount_minor, self.facts.asset)

    @strawberry.field(
        description="The first moment at which the same would pass, if nothing else moved and holds ended in their"
        " time; null where it never would."
    )
    async def resets_at(self, info: Info) -> datetime | None:
        """Work it out from what the log has: of all limits that were exceeded, the last that lets it through."""
        reads, every, shard = info.context.ledger.reads, self.facts.every(), self.refused.balance.wallet.shard
        rules = await gather(*(read_rule(info, facts) for facts in every))
        requests = [reset_of(facts, rule, shard) for facts, rule in zip(every, rules, strict=True)]
        if any(request is None for request in requests):
            return None
        return max(await gather(*(reads.limit_resets.load(request) for request in requests if request is not None)))

    @strawberry.field(description="What the wallet holds now.")
    def balance(self) -> Balance:
        """Make it when it is asked for."""
        return Balance(balance=self.refused.balance)

    @property
    def _used(self) -> Used:
        return Used(self.facts.used_minor, self.facts.used_count)

    async def _rule(self, info: Info) -> Rule:
        return await read_rule(info, self.facts)

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.LimitExceeded) -> Self:
        """Make it from the ledger's refusal."""
        return cls(**kept_fields(facts.code), refused=refusal, facts=facts, already_processed=refusal.already_processed)


async def read_rule(info: Info, facts: kept.LimitExceeded) -> Rule:
    """Read the version of the limit that a refusal was decided on."""
    name = RuleName(facts.asset.id, facts.rule_shard, facts.rule_wallet_id, facts.rule_step)
    rule = await info.context.ledger.reads.limit_rules.load(name)
    assert rule is not None
    return rule
