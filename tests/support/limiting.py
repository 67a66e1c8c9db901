"""Limits as clients see them: players of an asset of a test's own, on a service whose clock a test moves.

So what is limited for all wallets is in no other test's way.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import httpx
from factories import gql, new_owner
from lots import Service, service

from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.clock import advance_clock
from wallet_gql.settings import Settings

Answer = dict[str, Any]

HOUR: Final = {"rollingSeconds": 3600}
DAY: Final = {"calendar": {"unit": "DAY"}}

LIMIT: Final = """__typename id asset { code } appliesTo flow rollingSeconds unit timeZone maxAmount maxCount
  enforcement setAt setBy { kind name }"""
USE: Final = f"rule {{ {LIMIT} }} used usedCount remaining remainingCount resetsAt"
EXCEEDED: Final = f"""
  rule {{ {LIMIT} }} used usedCount remaining remainingCount required resetsAt
  balance {{ ownerId amount available held }}"""

_MEMBERS: Final = """
  __typename
  ... on Error { code message retryable }
  ... on Replayable { alreadyProcessed }
  ... on IdempotencyKeyReused { idempotencyKey }"""
_SET: Final = f"""mutation($input: SetLimitInput!) {{ setLimit(input: $input) {{ {_MEMBERS}
  ... on SetLimitPayload {{ rule {{ {LIMIT} }} }}
  ... on AssetNotFound {{ assetCode }}
  ... on InvalidAmount {{ reason scale }}
  ... on WalletNotFound {{ ownerId }}
  ... on TooMany {{ counted most }}
}} }}"""
_REMOVE: Final = f"""mutation($input: RemoveLimitInput!) {{ removeLimit(input: $input) {{ {_MEMBERS}
  ... on RemoveLimitPayload {{ rule {{ {LIMIT} }} }}
  ... on LimitNotFound {{ limitId }}
}} }}"""
_IN_FORCE: Final = f"query($a: String!, $o: String) {{ limits(asset: $a, ownerId: $o) {{ {LIMIT} }} }}"
_USES: Final = f"query($a: String!, $o: String!) {{ wallet(ownerId: $o) {{ limits(asset: $a) {{ {USE} }} }} }}"
_NODES: Final = f"""query($i: ID!) {{
  node(id: $i) {{ ... on Limit {{ {LIMIT} }} }} nodes(ids: [$i]) {{ ... on Limit {{ {LIMIT} }} }}
}}"""
_BALANCE: Final = "query($a: String!, $o: String!) { balance(ownerId: $o, asset: $a) { amount available held lapsed } }"
OUTCOME: Final = f"""query($o: String!, $k: UUID!) {{ outcomeByKey(ownerId: $o, idempotencyKey: $k) {{
  state transaction {{ id }} hold {{ id }}
  refusal {{ __typename code ... on Replayable {{ alreadyProcessed }} ... on TooMany {{ counted most }}
             ... on LimitExceeded {{ {EXCEEDED} }} ... on BalanceLimitExceeded {{ limit }} }}
}} }}"""

_OF_TRANSACTIONS: Final = "transaction { id type amount }"
_SHOWN: Final = {
    "placeHold": "hold { id remaining heldUntil }",
    "adjustHold": "hold { id remaining heldUntil }",
    "voidHold": "hold { id }",
    "captureHold": f"hold {{ id remaining }} {_OF_TRANSACTIONS}",
    "clawback": "taken clawback { id type amount }",
}
_LIMITED: Final = ("topUp", "bonus", "spend", "transfer", "placeHold", "adjustHold")
_FILLED: Final = ("topUp", "bonus", "refund")
_PAID: Final = ("transfer", "captureHold", "clawback")
_SHORT: Final = ("spend", "transfer", "placeHold", "adjustHold", "clawback")


def document(verb: str) -> str:
    """Return a document that asks for a mutation."""
    kind = f"{verb[0].upper()}{verb[1:]}"
    shown = _SHOWN.get(verb, _OF_TRANSACTIONS)
    return f"""mutation($input: {kind}Input!) {{ {verb}(input: $input) {{ {_MEMBERS}
      ... on {kind}Payload {{ {shown} balance {{ amount available held }} }}
      {f"... on LimitExceeded {{ {EXCEEDED} }}" if verb in _LIMITED else ""}
      {"... on BalanceLimitExceeded { limit balance { ownerId amount } }" if verb in _FILLED else ""}
      {"... on ReceiverRefused { ownerId cause }" if verb in _PAID else ""}
      {"... on InsufficientBalance { available required }" if verb in _SHORT else ""}
    }} }}"""


@dataclass
class Economy:
    """An asset of a test's own, and what is limited in it."""

    served: Service
    asset: str

    @property
    def client(self) -> httpx.AsyncClient:
        """The client of the service."""
        return self.served.client

    async def player(self, credits: int = 0) -> "Player":
        """Open a wallet, with so much in it that came before any window began."""
        player = Player(self, await new_owner(self.served.ledger))
        if credits:
            await player.do("topUp", credits)
            await self.wait(32 * 86_400)
        return player

    async def ask_to_set(self, flow: str, owner: str | None = None, **fields: Any) -> Answer:
        """Ask for a limit, under a key of its own unless one is given; without an owner it is for all wallets."""
        given = {"asset": self.asset, "ownerId": owner, "flow": flow, "idempotencyKey": str(uuid4()), **fields}
        answer: Answer = (await gql(self.client, _SET, input=given))["setLimit"]
        return answer

    async def set(self, flow: str, most: int | str | None = None, owner: str | None = None, **fields: Any) -> Answer:
        """Set a limit, and return it: in an hour, unless another window is given."""
        given = {"maxAmount": most, **({} if flow == "BALANCE" else {"window": HOUR}), **fields}
        answer = await self.ask_to_set(flow, owner, **given)
        assert (answer["__typename"], answer["alreadyProcessed"]) == ("SetLimitPayload", False), answer
        rule: Answer = answer["rule"]
        return rule

    async def ask_to_remove(self, limit_id: str, key: str | None = None) -> Answer:
        """Ask for a limit to be removed."""
        given = {"limitId": limit_id, "idempotencyKey": key or str(uuid4())}
        answer: Answer = (await gql(self.client, _REMOVE, input=given))["removeLimit"]
        return answer

    async def in_force(self, owner: str | None = None) -> list[Answer]:
        """Return the limits that are set: for all wallets, or for one."""
        found: list[Answer] = (await gql(self.client, _IN_FORCE, a=self.asset, o=owner))["limits"]
        return found

    async def limit(self, id_: str) -> Answer | None:
        """Return a limit by its id."""
        answer = await gql(self.client, _NODES, i=id_)
        assert answer["nodes"] == [answer["node"]]
        found: Answer | None = answer["node"]
        return found

    async def wait(self, seconds: int) -> None:
        """Let so much time pass."""
        await advance_clock(self.served.ledger, seconds)

    async def wait_until(self, moment: str, before_seconds: int = 0) -> None:
        """Let time pass until a moment, or to a little before it."""
        left = datetime.fromisoformat(moment) - await self.served.now()
        seconds = int(left.total_seconds()) + 1 - before_seconds
        if seconds > 0:
            await self.wait(seconds)


@dataclass
class Player:
    """An owner, by what it asks for."""

    economy: Economy
    owner: str
    asked: dict[str, Any] = field(default_factory=dict)
    """What it asked for last."""

    async def ask(self, verb: str, amount: int | None = None, **fields: Any) -> Answer:
        """Ask for something, and return what came of it; whatever names no owner itself is of this one's wallet."""
        mine: dict[str, Any] = {"ownerId": self.owner, "asset": self.economy.asset}
        if verb == "transfer":
            mine = {"fromOwnerId": self.owner, "asset": self.economy.asset}
        if "holdId" in fields or "transactionId" in fields:
            mine = {"description": "why"} if verb == "clawback" else {}
        amounts = {} if amount is None else {"amount": amount}
        self.asked = {"idempotencyKey": str(uuid4()), **mine, **amounts, **fields}
        answer: Answer = (await gql(self.economy.client, document(verb), input=self.asked))[verb]
        return answer

    async def ask_again(self, verb: str) -> Answer:
        """Ask for the same under the same key."""
        answer: Answer = (await gql(self.economy.client, document(verb), input=self.asked))[verb]
        return answer

    async def do(self, verb: str, amount: int | None = None, **fields: Any) -> Answer:
        """Ask for something that must be done."""
        answer = await self.ask(verb, amount, **fields)
        assert answer["__typename"] == f"{verb[0].upper()}{verb[1:]}Payload", answer
        return answer

    async def refused(self, verb: str, amount: int | None = None, **fields: Any) -> Answer:
        """Ask for something that must be refused by a limit of what moves; nothing moves."""
        before = await self.balance()
        answer = await self.ask(verb, amount, **fields)
        assert answer["__typename"] == "LimitExceeded", answer
        assert await self.balance() == before
        return answer

    async def hold(self, amount: int, **fields: Any) -> str:
        """Place a hold, and return its id."""
        placed = await self.do("placeHold", amount, **fields)
        hold_id: str = placed["hold"]["id"]
        return hold_id

    async def balance(self) -> dict[str, Decimal]:
        """Return what it has."""
        found = (await gql(self.economy.client, _BALANCE, a=self.economy.asset, o=self.owner))["balance"]
        return {name: Decimal(each) for name, each in found.items()}

    async def limits(self) -> list[Answer]:
        """Return the limits that hold for its wallet, with how much of each is used up."""
        answer = await gql(self.economy.client, _USES, a=self.economy.asset, o=self.owner)
        found: list[Answer] = answer["wallet"]["limits"]
        return found

    async def used(self) -> list[tuple[str, int, int]]:
        """Return of each limit how much is used up, by how many movements."""
        return [(each["rule"]["flow"], int(each["used"]), each["usedCount"]) for each in await self.limits()]

    async def outcome(self, key: str | None = None) -> Answer:
        """Return what became of a key: of what it asked for last, unless another is given."""
        variables = {"o": self.owner, "k": key or self.asked["idempotencyKey"]}
        outcome: Answer = (await gql(self.economy.client, OUTCOME, **variables))["outcomeByKey"]
        return outcome


@asynccontextmanager
async def economies(settings: Settings) -> AsyncIterator[Callable[..., Any]]:
    """Serve a database in test mode until the block ends; yields what makes an economy."""
    async with service(settings) as served:

        async def make(scale: int = 0, *, has_lots: bool = False) -> Economy:
            code = f"COINS_{uuid4().hex[:8].upper()}"
            await add_asset(served.ledger, code, "Coins", scale)
            if has_lots:
                await set_asset(served.ledger, code, has_lots=True)
            return Economy(served, code)

        yield make
