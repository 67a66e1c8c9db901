"""A small player economy: purchases, a gift, a trade, a refund, a chargeback with debt and a freeze, told as a story.

    make run                          # in another terminal: a server on http://127.0.0.1:8000
    python examples/economy.py        # or with another address: python examples/economy.py http://…/graphql

It needs Python and nothing else, and shows what a game's server does: one idempotency key for each thing that a player
does, made before the first try; the same request with the same key until there is an answer; a look at `__typename`.
The players are new ones in each run, so it can be run again.
"""

import json
import random
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Final
from uuid import uuid4

ADDRESS: Final = "http://127.0.0.1:8000/graphql"

RETRIED: Final = {"OVERLOADED", "UNAVAILABLE", "OUTCOME_UNKNOWN", "INTERNAL"}
"""Nothing is known to be wrong with the request: the same one, with the same key, is sent again."""

ATTEMPTS_MAX: Final = 20
PAUSE_SECONDS_MAX: Final = 10.0

HOLD: Final = "hold { id state amount captured released remaining } balance { amount available held }"

DOCUMENTS: Final = {
    "openWallet": """mutation($input: OpenWalletInput!) { openWallet(input: $input) {
      __typename ... on OpenWalletPayload { wallet { ownerId } } ... on Error { code message }
    } }""",
    "topUp": """mutation($input: TopUpInput!) { topUp(input: $input) {
      __typename
      ... on TopUpPayload { alreadyProcessed transaction { id amount } repaid balance { amount debt } }
      ... on ReceiptUsed { creditedBy { amount idempotencyKey } }
      ... on Error { code message }
    } }""",
    "spend": """mutation($input: SpendInput!) { spend(input: $input) {
      __typename
      ... on SpendPayload { balance { amount } }
      ... on InsufficientBalance { available required }
      ... on WalletFrozen { status }
      ... on Error { code message }
    } }""",
    "transfer": """mutation($input: TransferInput!) { transfer(input: $input) {
      __typename ... on TransferPayload { balance { amount } } ... on Error { code message }
    } }""",
    "placeHold": f"""mutation($input: PlaceHoldInput!) {{ placeHold(input: $input) {{
      __typename ... on PlaceHoldPayload {{ {HOLD} }} ... on Error {{ code message }}
    }} }}""",
    "captureHold": f"""mutation($input: CaptureHoldInput!) {{ captureHold(input: $input) {{
      __typename
      ... on CaptureHoldPayload {{ transaction {{ id }} {HOLD} }}
      ... on HoldNotOpen {{ state }}
      ... on Error {{ code message }}
    }} }}""",
    "voidHold": f"""mutation($input: VoidHoldInput!) {{ voidHold(input: $input) {{
      __typename ... on VoidHoldPayload {{ {HOLD} }} ... on Error {{ code message }}
    }} }}""",
    "adjustHold": f"""mutation($input: AdjustHoldInput!) {{ adjustHold(input: $input) {{
      __typename ... on AdjustHoldPayload {{ {HOLD} }} ... on Error {{ code message }}
    }} }}""",
    "refund": """mutation($input: RefundInput!) { refund(input: $input) {
      __typename
      ... on RefundPayload { transaction { amount refundOf { refundable } } balance { amount } }
      ... on RefundExceedsOriginal { refundable }
      ... on Error { code message }
    } }""",
    "clawback": """mutation($input: ClawbackInput!) { clawback(input: $input) {
      __typename ... on ClawbackPayload { taken indebted balance { amount debt } } ... on Error { code message }
    } }""",
    "freezeWallet": """mutation($input: FreezeWalletInput!) { freezeWallet(input: $input) {
      __typename ... on WalletPayload { wallet { status statusNote } } ... on Error { code message }
    } }""",
    "unfreezeWallet": """mutation($input: UnfreezeWalletInput!) { unfreezeWallet(input: $input) {
      __typename ... on WalletPayload { wallet { status } } ... on Error { code message }
    } }""",
}

HISTORY: Final = """query($ownerId: String!) {
  balance(ownerId: $ownerId) { amount held }
  transactions(ownerId: $ownerId) { nodes { type direction amount balanceAfter description } }
}"""


class Client:
    """Sends requests until they are answered."""

    def __init__(self, address: str) -> None:
        """Take the address of the endpoint."""
        self._address = address

    def ask(self, document: str, **variables: Any) -> dict[str, Any]:
        """Return the answer's data; a request that may be repeated is repeated, after a pause that doubles."""
        pause_seconds = 0.1
        for _ in range(ATTEMPTS_MAX):
            try:
                answer = self._send({"query": document, "variables": variables})
            except (OSError, ValueError):
                pass  # it was lost on its way, or half of it: what became of the request is not known
            else:
                errors = answer.get("errors", ())
                if "data" in answer and not errors:
                    data: dict[str, Any] = answer["data"]
                    return data
                if not errors or not {error["extensions"]["code"] for error in errors} <= RETRIED:
                    raise SystemExit(f"This request will never be done: {errors[0]['message'] if errors else answer}")
            time.sleep(pause_seconds * random.uniform(0.5, 1))  # noqa: S311 - so that clients do not come back together
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)
        raise SystemExit("There is no answer: ask outcomeByKey later, and never send it with a new key.")

    def do(self, verb: str, /, **asked: Any) -> dict[str, Any]:
        """Ask for something once; the caller may name the key, and then the same key is the same request."""
        if verb != "openWallet":
            asked = {"idempotencyKey": str(uuid4()), **asked}
        result: dict[str, Any] = self.ask(DOCUMENTS[verb], input=asked)[verb]
        return result

    def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the address is the caller's own
            self._address, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - the same
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            answer = json.load(error)  # the server's own answers are JSON, whatever their status
        return answer


def tell(text: str) -> None:
    """Print a line of the story."""
    print(text)


def expect(result: dict[str, Any], typename: str) -> dict[str, Any]:
    """Return a result that must be of a type: what a game does about each other type is up to the game."""
    if result["__typename"] != typename:
        raise SystemExit(f"Expected {typename}, but got {result}")
    return result


def buys_gold(client: Client, mira: str) -> str:
    """Top-up: the store's receipt is credited once, whoever asks, and however often."""
    receipt, key = f"store-{uuid4()}", str(uuid4())
    bought = {"ownerId": mira, "amount": "500", "receipt": receipt, "metadata": {"store": "play", "sku": "gold-500"}}
    result = expect(client.do("topUp", idempotencyKey=key, **bought), "TopUpPayload")
    tell(f"Mira buys 500 gold in the store. She has {result['balance']['amount']}.")
    again = expect(client.do("topUp", idempotencyKey=key, **bought), "TopUpPayload")
    assert again["alreadyProcessed"]
    tell(f"Her phone did not see the answer and asks again, with the same key. She has {again['balance']['amount']}.")
    used = expect(client.do("topUp", **bought), "ReceiptUsed")
    assert used["creditedBy"]["idempotencyKey"] == key
    tell("The store reports the same payment to the game's server, under another key: the receipt was credited before.")
    bought_id: str = result["transaction"]["id"]
    return bought_id


def buys_a_sword(client: Client, mira: str) -> str:
    """Purchase by hold and capture: what is promised to one purchase cannot be spent on another."""
    placed = expect(client.do("placeHold", ownerId=mira, amount="120", reference="sword"), "PlaceHoldPayload")
    shown = placed["balance"]
    tell(
        f"A sword costs 120: they are held while it is forged. Of {shown['amount']} she can spend {shown['available']}."
    )
    short = expect(client.do("spend", ownerId=mira, amount="400"), "InsufficientBalance")
    tell(f"A castle for {short['required']} meanwhile? Only {short['available']} are available.")
    captured = expect(
        client.do("captureHold", holdId=placed["hold"]["id"], description="A sword"), "CaptureHoldPayload"
    )
    tell(f"The sword is hers: {captured['hold']['captured']} are captured. She has {captured['balance']['amount']}.")
    paid_id: str = captured["transaction"]["id"]
    return paid_id


def gets_no_horse(client: Client, mira: str) -> None:
    """Purchase that fails: the hold is voided, and nothing has moved."""
    placed = expect(client.do("placeHold", ownerId=mira, amount="200", reference="horse"), "PlaceHoldPayload")
    voided = expect(client.do("voidHold", holdId=placed["hold"]["id"]), "VoidHoldPayload")
    tell(
        f"A horse for 200 runs away before it is delivered: the hold is voided. She has {voided['balance']['amount']}."
    )
    late = expect(client.do("captureHold", holdId=placed["hold"]["id"]), "HoldNotOpen")
    tell(f"The stable wants its money all the same: the hold is {late['state'].lower()}, nothing is paid.")


def gives_a_gift(client: Client, mira: str, jonas: str) -> None:
    """Gift: both sides in one commit, and once, however often it is sent."""
    key = str(uuid4())
    gift = {"fromOwnerId": mira, "toOwnerId": jonas, "amount": "50", "description": "A gift", "idempotencyKey": key}
    for _ in range(2):  # a player who taps twice sends one gift, for the tap has the key
        given = expect(client.do("transfer", **gift), "TransferPayload")
    tell(f"Mira gives Jonas 50, and taps twice. She has {given['balance']['amount']}.")


def trades(client: Client, mira: str, jonas: str) -> None:
    """Trade by escrow: the buyer's credits are safe for the seller, and leave the buyer when the goods arrive."""
    placed = expect(
        client.do("placeHold", ownerId=mira, toOwnerId=jonas, amount="80", metadata={"trade": "shield"}),
        "PlaceHoldPayload",
    )
    tell("Jonas sells a shield for 80: Mira's credits are held for him, and nobody can spend them.")
    id_ = placed["hold"]["id"]
    raised = expect(client.do("adjustHold", holdId=id_, amount="100"), "AdjustHoldPayload")
    tell(f"Jonas wants more, and she agrees: {raised['hold']['remaining']} are held.")
    paid = expect(client.do("captureHold", holdId=id_, amount="90", description="A shield"), "CaptureHoldPayload")
    hold = paid["hold"]
    tell(f"The shield has a dent, so he takes {hold['captured']}, and {hold['released']} are released.")


def complains(client: Client, paid_id: str) -> None:
    """Refund: a part of what was paid, and never more than that, however often it is asked for."""
    given = expect(client.do("refund", transactionId=paid_id, amount="60", reference="ticket-7"), "RefundPayload")
    tell(f"The sword is blunt: support refunds 60 of it. Mira has {given['balance']['amount']}.")
    more = expect(client.do("refund", transactionId=paid_id, amount="61"), "RefundExceedsOriginal")
    tell(f"Another 61? Only {more['refundable']} of what she paid are left to refund.")


def charges_back(client: Client, bought_id: str) -> None:
    """Chargeback: what is there is taken back, and the rest is owed."""
    asked = {"transactionId": bought_id, "onShortfall": "DEBT", "description": "Chargeback"}
    taken = expect(client.do("clawback", **asked), "ClawbackPayload")
    tell(f"Her bank charges the 500 back: {taken['taken']} are taken, and she owes {taken['indebted']}.")


def is_frozen(client: Client, mira: str) -> None:
    """Freeze: nothing leaves the wallet, but credits come in, and repay what is owed."""
    frozen = expect(client.do("freezeWallet", ownerId=mira, note="Chargeback"), "WalletPayload")
    tell(f"Her wallet is frozen: {frozen['wallet']['status']}, for {frozen['wallet']['statusNote'].lower()}.")
    expect(client.do("spend", ownerId=mira, amount="1"), "WalletFrozen")
    paid = expect(client.do("topUp", ownerId=mira, amount="220", description="Paid up"), "TopUpPayload")
    tell(
        f"She cannot spend. She buys 220 again: {paid['repaid']} repay her debt, {paid['balance']['amount']} are left."
    )
    open_ = expect(client.do("unfreezeWallet", ownerId=mira), "WalletPayload")
    tell(f"Her wallet is {open_['wallet']['status'].lower()} again.")


def look_at_the_books(client: Client, names: dict[str, str]) -> None:
    """History: what each has is what is left of all that happened."""
    for name, owner in names.items():
        found = client.ask(HISTORY, ownerId=owner)
        held = found["balance"]["held"]
        tell(f"{name} has {found['balance']['amount']}, of which {held} are held:")
        total = 0
        for node in reversed(found["transactions"]["nodes"]):
            sign = "+" if node["direction"] == "CREDIT" else "-"
            total += int(f"{sign}{node['amount']}")
            about = f" ({node['description']})" if node["description"] else ""
            tell(f"  {node['type']:<12} {sign + node['amount']:>5} {node['balanceAfter']:>5}{about}")
        assert f"{total}" == found["balance"]["amount"]


def main(address: str = ADDRESS) -> None:
    """Tell the story on a running server."""
    client = Client(address)
    names = {name: f"{name.lower()}-{uuid4().hex[:8]}" for name in ("Mira", "Jonas")}
    mira, jonas = names.values()
    for owner in names.values():
        expect(client.do("openWallet", ownerId=owner), "OpenWalletPayload")
    tell("Mira and Jonas begin to play.")
    bought_id = buys_gold(client, mira)
    paid_id = buys_a_sword(client, mira)
    gets_no_horse(client, mira)
    gives_a_gift(client, mira, jonas)
    trades(client, mira, jonas)
    complains(client, paid_id)
    charges_back(client, bought_id)
    is_frozen(client, mira)
    look_at_the_books(client, names)


if __name__ == "__main__":
    main(*sys.argv[1:])
