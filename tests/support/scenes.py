"""Scenes: one request that a mutation is sent, and the world that it meets. What owners do is asked for by GraphQL."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final, TypeAlias
from uuid import uuid4

import httpx
from batches import connected, new_owner_in, wallet
from direct import account_of, insert, movement
from factories import gql
from graphql import GraphQLField, GraphQLNonNull, GraphQLObjectType, get_named_type, is_leaf_type
from order import keyed_mutations, members_of

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.money import BALANCE_MINOR_MAX
from wallet_gql.domain.shards import shard_of
from wallet_gql.ledger.locks import lock_wallets
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.opening import Ledger

Answer: TypeAlias = dict[str, Any]

ASSET: Final = "CARDS"
ASIDE: Final = "STICKERS"
"""An asset in which a key is used up without moving anything that matters."""

LOTTED: Final = "TICKETS"
"""An asset that has lots."""

FUNDS: Final = 1000
AMOUNT: Final = 60
ROOM: Final = 50
"""What is left to who is nearly full or nearly out of credits: room for as many parts of one as there may be."""

SLOTS: Final = range(16, 64)
"""Of treasury stripes that no server of the tests has."""


def _shown(field: GraphQLField) -> str | None:
    """Return what is read of a field: plain values, and ids of transactions, holds and limits, which do not move."""
    type_ = get_named_type(field.type)
    if any(isinstance(each.type, GraphQLNonNull) for each in field.args.values()):
        return None
    if isinstance(type_, GraphQLObjectType) and type_.name in {"Transaction", "Hold", "Limit"}:
        return "{ id }"
    return "" if is_leaf_type(type_) else None


def _document(mutation: str) -> str:
    spreads = []
    for member in members_of(mutation):
        shown = {name: _shown(field) for name, field in member.fields.items()}
        fields = " ".join(f"{name} {below}" for name, below in shown.items() if below is not None)
        spreads.append(f"... on {member.name} {{ {fields} }}")
    input_type = f"{mutation[0].upper()}{mutation[1:]}Input!"
    return f"mutation($input: {input_type}) {{ {mutation}(input: $input) {{ __typename {' '.join(spreads)} }} }}"


DOCUMENTS: Final = {mutation: _document(mutation) for mutation in keyed_mutations()}


@dataclass
class World:
    """What scenes have in common; an asset's policy is set for all of them at once."""

    client: httpx.AsyncClient
    ledger: Ledger
    _filling: asyncio.Lock = field(default_factory=asyncio.Lock)
    _slots: Iterator[int] = field(default_factory=lambda: cycle(SLOTS))

    async def open(self) -> "World":
        """Add the assets."""
        await add_asset(self.ledger, ASSET, "Cards", 0)
        await add_asset(self.ledger, ASIDE, "Stickers", 0)
        await add_asset(self.ledger, LOTTED, "Tickets", 0)
        await set_asset(self.ledger, LOTTED, has_lots=True)
        return self

    async def allow(self, policy: TransferPolicy) -> None:
        """Set whether owners may transfer the asset."""
        await set_asset(self.ledger, ASSET, policy)

    async def do(self, mutation: str, **asked: Any) -> Answer:
        """Ask for something, under a key of its own unless one is given; returns the member that came of it."""
        variables = {"input": {"idempotencyKey": str(uuid4()), **asked}}
        response = await self.client.post("/graphql", json={"query": DOCUMENTS[mutation], "variables": variables})
        body = response.json()
        if "errors" in body:
            (error,) = body["errors"]
            return {"__typename": error["extensions"]["code"], "message": error["message"]}
        answer: Answer = body["data"][mutation]
        return answer

    async def give(self, owner: str, amount: int) -> None:
        """Credit an owner."""
        await self.do("bonus", ownerId=owner, asset=ASSET, amount=amount)

    async def freeze(self, owner: str, scope: str = "OUT") -> None:
        """Freeze an owner's wallet, for as long as any test may take."""
        await self.do("freezeWallet", ownerId=owner, scope=scope, until="2900-01-01T00:00:00Z", note="because")

    async def close(self, owner: str) -> None:
        """Close an owner's wallet, whatever it has."""
        closed = await self.do("closeWallet", ownerId=owner, remainder="FORFEIT", voidHolds=True, note="because")
        assert closed["__typename"] == "WalletPayload", closed

    async def fill(self, owner: str, room: int, most: int = BALANCE_MINOR_MAX) -> None:
        """Credit an owner until there is only so much room: by SQL, for it is more than the API posts at once."""
        ledger, shard = self.ledger, shard_of(owner, self.ledger.shard_count)
        async with self._filling, connected(ledger.settings) as connection, connection.transaction():
            await lock_wallets(connection, [wallet(ledger, owner)])
            account = await account_of(connection, shard, owner, ASSET)
            if missing := most - room - account.balance:
                slot = next(self._slots)
                await insert(connection, await movement(connection, shard, owner, missing, asset=ASSET, slot=slot))


@dataclass
class Scene:
    """One request and what it meets."""

    world: World
    mutation: str
    owner: str
    """Whose key it is."""
    other: str
    """Whom a transfer or a hold pays; of a clawback, who gets back what it sent."""
    base: dict[str, Any]
    changed: dict[str, Any] = field(default_factory=dict)
    policy: TransferPolicy = TransferPolicy.ALL
    """The asset's, when the request is sent."""
    spare: str = ""
    """Another hold or limit of the owner's, where the request is about one."""

    @property
    def asked(self) -> dict[str, Any]:
        """What is sent."""
        return {**self.base, **self.changed}

    @property
    def owner_field(self) -> str:
        """The field that names whose key it is, where one does."""
        return "fromOwnerId" if "fromOwnerId" in self.base else "ownerId"

    def change(self, **fields: Any) -> None:
        """Ask for something else than the base does."""
        twice = fields.keys() & self.changed.keys()
        assert not twice, f"{self.mutation}: two conditions change {twice}; excuse the pair"
        self.changed |= fields

    async def ask(self, **more: Any) -> Answer:
        """Send the request, or another one under the same key."""
        return await self.world.do(self.mutation, **{**self.asked, **more})


async def new_scene(world: World, mutation: str) -> Scene:
    """Return a scene in which the request would be posted."""
    owner, other = await new_owner_in(world.ledger, 0), await new_owner_in(world.ledger, 1)
    for each in (owner, other):
        await world.give(each, FUNDS)
    scene = Scene(world, mutation, owner, other, {})
    scene.base = await BASES[mutation](scene)
    return scene


async def _posting(scene: Scene) -> dict[str, Any]:
    return {"ownerId": scene.owner, "asset": ASSET, "amount": AMOUNT}


async def _top_up(scene: Scene) -> dict[str, Any]:
    return {**await _posting(scene), "receipt": str(uuid4())}


async def _transfer(scene: Scene) -> dict[str, Any]:
    return {"fromOwnerId": scene.owner, "toOwnerId": scene.other, "asset": ASSET, "amount": AMOUNT}


async def _place(scene: Scene) -> dict[str, Any]:
    return {**await _posting(scene), "toOwnerId": scene.other}


async def _hold(scene: Scene) -> dict[str, Any]:
    placed = await scene.world.do("placeHold", **await _place(scene))
    spare = await scene.world.do("placeHold", ownerId=scene.owner, asset=ASSET, amount=1)
    scene.spare = spare["hold"]["id"]
    return {"holdId": placed["hold"]["id"]}


async def _adjust(scene: Scene) -> dict[str, Any]:
    return {**await _hold(scene), "amount": AMOUNT + 1}


async def _spend(scene: Scene) -> dict[str, Any]:
    spent = await scene.world.do("spend", **await _posting(scene))
    return {"transactionId": spent["transaction"]["id"]}


async def _received(scene: Scene) -> dict[str, Any]:
    sent = {**await _transfer(scene), "fromOwnerId": scene.other, "toOwnerId": scene.owner}
    await scene.world.do("transfer", **sent)
    return {"transactionId": await last_transaction(scene.world, scene.owner), "description": "because"}


async def _freeze(scene: Scene) -> dict[str, Any]:
    return {"ownerId": scene.owner, "note": "because"}


async def _unfreeze(scene: Scene) -> dict[str, Any]:
    await scene.world.freeze(scene.owner, "ALL")
    return {"ownerId": scene.owner}


async def _close(scene: Scene) -> dict[str, Any]:
    return {"ownerId": scene.owner, "remainder": "TRANSFER", "toOwnerId": scene.other, "note": "because"}


async def _reopen(scene: Scene) -> dict[str, Any]:
    await scene.world.close(scene.owner)
    return {"ownerId": scene.owner}


async def _set_limit(scene: Scene) -> dict[str, Any]:
    window = {"rollingSeconds": 3600}
    return {"ownerId": scene.owner, "asset": ASSET, "flow": "SPEND", "window": window, "maxAmount": AMOUNT}


async def _remove_limit(scene: Scene) -> dict[str, Any]:
    asked = await _set_limit(scene)
    first = await scene.world.do("setLimit", **asked)
    spare = await scene.world.do("setLimit", **asked | {"flow": "OUT"})
    scene.spare = spare["rule"]["id"]
    return {"limitId": first["rule"]["id"]}


async def last_transaction(world: World, owner: str) -> str:
    """Return the id of an owner's newest transaction."""
    return await _transaction(world, owner, "first: 1")


async def first_transaction(world: World, owner: str) -> str:
    """Return the id of an owner's oldest transaction."""
    return await _transaction(world, owner, "last: 1")


async def _transaction(world: World, owner: str, page: str) -> str:
    query = f"query($o: String!, $a: String!) {{ transactions(ownerId: $o, asset: $a, {page}) {{ nodes {{ id }} }} }}"
    id_: str = (await gql(world.client, query, o=owner, a=ASSET))["transactions"]["nodes"][0]["id"]
    return id_


BASES: Final[dict[str, Callable[[Scene], Awaitable[dict[str, Any]]]]] = {
    "topUp": _top_up,
    "bonus": _posting,
    "spend": _posting,
    "transfer": _transfer,
    "placeHold": _place,
    "captureHold": _hold,
    "voidHold": _hold,
    "adjustHold": _adjust,
    "refund": _spend,
    "clawback": _received,
    "freezeWallet": _freeze,
    "unfreezeWallet": _unfreeze,
    "closeWallet": _close,
    "reopenWallet": _reopen,
    "setLimit": _set_limit,
    "removeLimit": _remove_limit,
}
"""What each mutation that takes a key is sent so that it is posted."""
