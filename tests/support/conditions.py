"""How each refusal comes about: conditions that change a scene's world or request so that it holds, and only it.

Conditions of several refusals are applied to one scene, the one that wins last first: so each is made in a world in
which those after it hold. Two that would change the same field of the request cannot be joined.
"""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

from order import FAULT, OF_THE_RECEIVER, OF_WHAT_WAS_FOUND
from scenes import AMOUNT, ASIDE, ASSET, FUNDS, LOTTED, ROOM, Answer, Scene, World, new_scene

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.holds import CAPTURES_MAX, OPEN_HOLDS_MAX, HoldName
from wallet_gql.domain.limits import LIMITS_MAX, RuleName
from wallet_gql.domain.lots import LIVE_LOTS_MAX
from wallet_gql.domain.money import BALANCE_MINOR_MAX, MINOR_MAX, POSTING_MINOR_MAX
from wallet_gql.domain.text import TEXT_LENGTH_MAX
from wallet_gql.graphql import ids
from wallet_gql.ledger.judge_reversals import REVERSALS_MAX

Condition: TypeAlias = Callable[[Scene], Awaitable[None]]

MUCH: Final = 10**9
TOO_LONG: Final = "x" * (TEXT_LENGTH_MAX + 1)
NOBODY: Final = "nobody-sends"
NOBODY_ELSE: Final = "nobody-gets"
LONG_AGO: Final = "2001-01-01T00:00:00Z"
OF_LIMITS: Final = ("setLimit", "removeLimit")
OF_WALLETS: Final = ("freezeWallet", "unfreezeWallet", "closeWallet", "reopenWallet")
MISSING_HOLD: Final = ids.hold_id(HoldName(0, UUID(int=1)))
MISSING_TRANSACTION: Final = urlsafe_b64encode(b"Transaction:0:1:999999").decode().rstrip("=")
MISSING_LIMIT: Final = ids.limit_id(RuleName(1, 0, 0, 999_999))

LIMITED: Final = {"topUp": "TOP_UP", "spend": "SPEND"}
"""Which flow a mutation comes under; the others pay somebody, or will."""


async def set_up(world: World, mutation: str, *labels: str) -> Scene:
    """Return a scene in which several refusals hold at once; `labels` are in the order in which they win."""
    scene = await new_scene(world, mutation)
    for label in reversed(labels):
        await condition_of(mutation, label)(scene)
    return scene


async def ask_all(scenes: Sequence[Scene]) -> list[Answer]:
    """Send the requests of all scenes, those at once that meet the same policy; ends with the policy that allows."""
    answered: dict[int, Answer] = {}
    for policy in (TransferPolicy.NONE, TransferPolicy.ALL):
        sent = [n for n, scene in enumerate(scenes) if scene.policy is policy]
        await scenes[0].world.allow(policy)
        answered |= zip(sent, await asyncio.gather(*(scenes[n].ask() for n in sent)), strict=True)
    return [answered[n] for n in range(len(scenes))]


def label_of(answer: Answer) -> str:
    """Return the label of the row in the table that an answer belongs to; of a payload its name."""
    name: str = answer["__typename"]
    if name == "WalletNotFound" and answer["ownerId"] == NOBODY_ELSE:
        return OF_THE_RECEIVER
    if name == "InvalidAmount" and answer["reason"] != "NOT_POSITIVE":
        return OF_WHAT_WAS_FOUND
    return name


def condition_of(mutation: str, label: str) -> Condition:
    """Return what makes a refusal hold for a mutation."""
    return SPECIAL.get((mutation, label)) or CONDITIONS[label]


def asked(**fields: Any) -> Condition:
    """Return the condition that the request has such fields."""

    async def change(scene: Scene) -> None:
        scene.change(**fields)

    return change


async def malformed(scene: Scene) -> None:
    scene.change(description=TOO_LONG)


async def to_itself(scene: Scene) -> None:
    scene.change(toOwnerId=scene.asked[scene.owner_field])


async def of_nobody(scene: Scene) -> None:
    scene.change(**{scene.owner_field: NOBODY})


async def key_used(scene: Scene) -> None:
    key = str(uuid4())
    await scene.world.do("bonus", ownerId=scene.owner, asset=ASIDE, amount=1, idempotencyKey=key)
    scene.change(idempotencyKey=key)


async def forbidden(scene: Scene) -> None:
    scene.policy = TransferPolicy.NONE


async def closed(scene: Scene) -> None:
    await scene.world.do("voidHold", holdId=scene.base["holdId"])


async def captured_above(scene: Scene) -> None:
    await scene.world.do("captureHold", holdId=scene.base["holdId"], amount=5, keepRemainder=True)
    scene.change(amount=4)


async def of_another_type(scene: Scene) -> None:
    verb = "spend" if scene.mutation == "clawback" else "bonus"
    moved = await scene.world.do(verb, ownerId=scene.owner, asset=ASSET, amount=1)
    scene.change(transactionId=moved["transaction"]["id"])


async def receipt_used(scene: Scene) -> None:
    receipt = str(uuid4())
    await scene.world.do("topUp", ownerId=scene.other, asset=ASSET, amount=1, receipt=receipt)
    scene.change(receipt=receipt)


async def often(scene: Scene, times: int, mutation: str, **fields: Any) -> None:
    """Do something many times at once."""
    await asyncio.gather(*(scene.world.do(mutation, **fields) for _ in range(times)))


async def many_holds(scene: Scene) -> None:
    await often(scene, OPEN_HOLDS_MAX, "placeHold", ownerId=scene.owner, asset=ASSET, amount=1)


async def many_lots(scene: Scene) -> None:
    # Of an asset of their own: what others fill by SQL has no lots.
    given = (
        scene.world.do("bonus", ownerId=scene.owner, asset=LOTTED, amount=1, campaign=f"campaign {n}")
        for n in range(LIVE_LOTS_MAX)
    )
    await asyncio.gather(*given)
    if scene.asked["asset"] != LOTTED:
        scene.change(asset=LOTTED)


async def limit(scene: Scene, flow: str, most: int, **fields: Any) -> None:
    """Limit what an owner moves: the one whose key it is, unless another is named."""
    window = {"rollingSeconds": 3600}
    given = {"ownerId": scene.owner, "asset": ASSET, "flow": flow, "window": window, "maxAmount": most, **fields}
    await scene.world.do("setLimit", **given)


async def limited(scene: Scene) -> None:
    # A hold that is raised counts as it is already.
    most = AMOUNT if scene.mutation == "adjustHold" else 1
    await limit(scene, LIMITED.get(scene.mutation, "TRANSFER_OUT"), most)


async def bonus_limited(scene: Scene) -> None:
    """Limit bonuses so that there can be as many lots as may be; what is asked for is more than that."""
    # What is refused opens the account, too.
    await scene.world.do("topUp", ownerId=scene.owner, asset=LOTTED, amount=1)
    await limit(scene, "BONUS", LIVE_LOTS_MAX, asset=LOTTED)
    if scene.asked["asset"] != LOTTED:
        scene.change(asset=LOTTED, amount=LIVE_LOTS_MAX + 1)


async def other_limited(scene: Scene) -> None:
    await limit(scene, "IN", 1, ownerId=scene.other)


async def many_limits(scene: Scene) -> None:
    windows = ({"rollingSeconds": n + 1} for n in range(LIMITS_MAX))
    await asyncio.gather(*(limit(scene, "OUT", MUCH, window=window) for window in windows))


async def full_but_for_lots(scene: Scene) -> None:
    for n in range(BALANCE_MINOR_MAX // POSTING_MINOR_MAX):
        amount = POSTING_MINOR_MAX - (0 if n else LIVE_LOTS_MAX)
        await scene.world.do("topUp", ownerId=scene.owner, asset=LOTTED, amount=amount)
    scene.change(asset=LOTTED, amount=LIVE_LOTS_MAX + 1)


async def often_captured(scene: Scene) -> None:
    fields = {"holdId": scene.base["holdId"], "amount": 1, "keepRemainder": True}
    await often(scene, CAPTURES_MAX, "captureHold", **fields)


async def often_reversed(scene: Scene) -> None:
    await often(scene, REVERSALS_MAX, scene.mutation, **{**scene.base, "amount": 1})


async def owner_full(scene: Scene) -> None:
    await scene.world.fill(scene.owner, ROOM)


async def owner_at_the_end(scene: Scene) -> None:
    # A refund may pass the most that a wallet may hold: it ends where the arithmetic does.
    await scene.world.fill(scene.owner, ROOM, MINOR_MAX)


async def other_full(scene: Scene) -> None:
    await scene.world.fill(scene.other, ROOM)


async def other_frozen(scene: Scene) -> None:
    await scene.world.freeze(scene.other, "ALL")


async def other_closed(scene: Scene) -> None:
    await scene.world.close(scene.other)


async def wallet_closed(scene: Scene) -> None:
    await scene.world.close(scene.owner)


async def nothing_leaves(scene: Scene) -> None:
    await scene.world.freeze(scene.owner)


async def nothing_moves(scene: Scene) -> None:
    await scene.world.freeze(scene.owner, "ALL")


async def with_a_hold(scene: Scene) -> None:
    await scene.world.do("placeHold", ownerId=scene.owner, asset=ASSET, amount=1)


async def spent(scene: Scene) -> None:
    amount = FUNDS + AMOUNT - ROOM
    await scene.world.do("spend", ownerId=scene.owner, asset=ASSET, amount=amount)


CONDITIONS: Final[dict[str, Condition]] = {
    FAULT: malformed,
    "AssetNotFound": asked(asset="NOPE"),
    "InvalidAmount": asked(amount=0),
    "SelfTransfer": to_itself,
    "WalletNotFound": of_nobody,
    "HoldNotFound": asked(holdId=MISSING_HOLD),
    "TransactionNotFound": asked(transactionId=MISSING_TRANSACTION),
    "LimitNotFound": asked(limitId=MISSING_LIMIT),
    OF_WHAT_WAS_FOUND: asked(amount="0.5"),
    "IdempotencyKeyReused": key_used,
    OF_THE_RECEIVER: asked(toOwnerId=NOBODY_ELSE),
    "WalletClosed": wallet_closed,
    "WalletFrozen": nothing_leaves,
    "TransferForbidden": forbidden,
    "HoldNotOpen": closed,
    "HoldExceeded": asked(amount=MUCH),
    "NotRefundable": of_another_type,
    "RefundExceedsOriginal": asked(amount=MUCH),
    "ReceiptUsed": receipt_used,
    "WalletNotEmpty": with_a_hold,
    "LimitExceeded": limited,
    "BalanceLimitExceeded": owner_full,
    "InsufficientBalance": asked(amount=MUCH),
    "ReceiverRefused": other_full,
}

SPECIAL: Final[dict[tuple[str, str], Condition]] = {
    # These take no description.
    ("voidHold", FAULT): asked(idempotencyKey="no key"),
    ("adjustHold", FAULT): asked(ttlSeconds=0),
    ("setLimit", FAULT): asked(maxCount=0),
    **{(mutation, FAULT): asked(note=TOO_LONG) for mutation in OF_WALLETS},
    **{(mutation, "WalletFrozen"): nothing_moves for mutation in ("topUp", "bonus", "captureHold", "refund")},
    ("adjustHold", "HoldExceeded"): captured_above,
    ("clawback", "InsufficientBalance"): spent,
    ("refund", "BalanceLimitExceeded"): owner_at_the_end,
    ("bonus", "InvalidExpiry"): asked(expiresAt=LONG_AGO),
    ("refund", "InvalidExpiry"): asked(lapsedUntil=LONG_AGO),
    ("setLimit", "InvalidAmount"): asked(maxAmount=0),
    ("setLimit", "TooMany"): many_limits,
    ("bonus", "TooMany"): many_lots,
    ("bonus", "LimitExceeded"): bonus_limited,
    ("bonus", "BalanceLimitExceeded"): full_but_for_lots,
    ("placeHold", "TooMany"): many_holds,
    ("captureHold", "TooMany"): often_captured,
    ("refund", "TooMany"): often_reversed,
    ("clawback", "TooMany"): often_reversed,
}
"""Where a mutation is refused in a way of its own."""

RECEIVERS: Final[dict[str, Condition]] = {
    "FULL": other_full, "LIMIT": other_limited, "FROZEN": other_frozen, "CLOSED": other_closed,
}  # fmt: skip
"""How a receiver comes to take nothing, by the cause that is told."""


def receivers_of(mutation: str) -> dict[str, Condition]:
    """Return how a receiver comes to take nothing of a mutation: a limit does not refuse what comes back."""
    return {cause: each for cause, each in RECEIVERS.items() if (mutation, cause) != ("clawback", "LIMIT")}
