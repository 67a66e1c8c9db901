"""What a newcomer is told to paste or to press, done to a running server as told."""

import asyncio
import json
import re
import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
from conftest import Served

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
TABS: Final[dict[str, dict[str, Any]]] = {
    re.findall(r"^(?:query|mutation) (\w+)", "\n".join(tab["query"]), re.MULTILINE)[0]: tab
    for tab in json.loads((ROOT / "wallet_gql" / "console" / "graphiql" / "tabs.json").read_text())
}
"""GraphiQL's tabs by their titles."""

# A machine without curl still has the line's quoting tried by a shell.
CURL: Final = f"""command -v curl >/dev/null || curl() {{ {shlex.quote(sys.executable)} -c '
import sys, urllib.request as u
print(u.urlopen(u.Request(sys.argv[3], sys.argv[7].encode(), dict([sys.argv[5].split(": ")]))).read().decode())
' "$@"; }}
"""


def conversation(page: Path) -> list[tuple[str, Any]]:
    """Return a page's requests, each with the answer that stands below it."""
    pairs = re.findall(r"```graphql\n(.*?)```\n\n```json\n(.*?)```", page.read_text(), re.DOTALL)
    return [(query, json.loads(answer)) for query, answer in pairs]


async def ask(url: str, query: str, variables: dict[str, Any] | None = None) -> Any:
    async with httpx.AsyncClient(timeout=60) as client:
        response = await client.post(url, json={"query": query, "variables": variables})
    assert response.status_code == 200
    return response.json()


def variables_of(title: str) -> Any:
    """Return a tab's variables as the page fills them in when it is opened: fresh keys, one player, an end to come."""
    player = f"player-{uuid4().hex[:8]}"
    in_a_month = (datetime.now(UTC) + timedelta(days=30)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = json.dumps(TABS[title]["variables"]).replace("$IN_A_MONTH", in_a_month).replace("$FRESH_PLAYER", player)
    return json.loads(re.sub(r"\$FRESH_UUID", lambda _: str(uuid4()), text))


async def play(url: str, title: str, variables: Any = None) -> Any:
    """Press Play in a tab; return the answer's field, or all where it has more. The page was just opened.

    Unless variables are given: then it was played before.
    """
    variables = variables or variables_of(title)
    if title == "Refund":
        # As its comment tells.
        nodes = (await play(url, "History"))["nodes"]
        variables["input"]["transactionId"] = next(node["id"] for node in nodes if node["type"] == "SPEND")
    answer = await ask(url, "\n".join(TABS[title]["query"]), variables)
    assert "errors" not in answer
    field, *others = answer["data"].values()
    return answer["data"] if others else field


async def paste_what_serve_printed(served: Served) -> None:
    """Run the printed line exactly as it is printed, in a shell."""
    assert served.process.stdout is not None
    lines = iter(served.process.stdout.readline, "")
    line = await asyncio.to_thread(lambda: next(line for line in lines if line.startswith("curl")))
    shell = await asyncio.create_subprocess_exec("sh", "-c", CURL + line, stdout=-1, stderr=-1)
    out, err = await shell.communicate()
    assert (shell.returncode, err) == (0, b"")
    assert json.loads(out)["data"]["balance"]["amount"].isdecimal()
    assert out.endswith(b"\n")


async def paste_the_readme(served: Served) -> None:
    """Send each request of the README, and compare its answer to the one that is shown."""
    requests = conversation(README)
    assert len(requests) == README.read_text().count("```graphql") == 5
    for query, answer in requests:
        assert await ask(served.url, query) == answer
    # The top-up again, as the README tells the reader to.
    (first,) = (answer["data"]["topUp"] for query, answer in requests if "topUp(" in query)
    (again,) = [await ask(served.url, query) for query, _ in requests if "topUp(" in query]
    assert again["data"]["topUp"]["alreadyProcessed"] is True
    assert again["data"]["topUp"]["transaction"] == first["transaction"]


async def play_the_tabs(served: Served) -> None:
    """Press Play in each tab from left to right, on demo data whose players nobody has touched."""
    answers = {title: await play(served.url, title) for title in TABS}
    assert answers["Balance"]["amount"] == "799"
    assert answers["OpenWallet"]["__typename"] == "OpenWalletPayload"
    assert answers["OpenWallet"]["alreadyOpen"] is False
    for title, balance in (
        ("TopUp", "899"),
        ("Bonus", "924"),
        ("Spend", "894"),
        ("Transfer", "879"),
        ("Refund", "889"),
    ):
        posted = answers[title]
        assert (posted["__typename"], posted["balance"]["amount"]) == (f"{title}Payload", balance)
    held = answers["Hold"]
    assert (held["__typename"], held["balance"]) == (
        "PlaceHoldPayload",
        {"amount": "879", "available": "849", "held": "30"},
    )
    refused = answers["Refused"]
    assert (refused["__typename"], refused["available"]) == ("InsufficientBalance", "894")
    assert [node["amount"] for node in answers["History"]["nodes"]] == ["15", "30", "25", "100", "799"]
    assert_points_expire(answers["Expiring"])
    assert_a_limit_refuses(answers["Limits"])


def assert_points_expire(answer: Any) -> None:
    """See what the tab tells of on demo data whose points nobody has touched."""
    given, spent = answer["bonus"], answer["spend"]
    assert (given["__typename"], spent["__typename"]) == ("BonusPayload", "SpendPayload")
    lots = given["balance"]["lots"]["nodes"]
    assert [(lot["campaign"], lot["remaining"]) for lot in lots] == [
        ("weekly-quest", "30.00"),
        ("spring", "20.00"),
        ("welcome-back", "40.00"),
    ]
    friday, next_week, in_a_month = (datetime.fromisoformat(lot["expiresAt"]) for lot in lots)
    assert (f"{friday:%A}", next_week - friday) == ("Friday", timedelta(days=7))
    assert datetime.now(UTC) < friday < next_week < in_a_month
    uses = spent["transaction"]["lotUses"]
    assert [(use["lot"]["campaign"], use["amount"]) for use in uses] == [("weekly-quest", "30.00"), ("spring", "5.00")]
    assert (spent["balance"]["amount"], spent["balance"]["lapsed"]) == ("55.00", "0.00")
    assert [lot["remaining"] for lot in spent["balance"]["lots"]["nodes"]] == ["15.00", "40.00"]


def assert_a_limit_refuses(answer: Any) -> None:
    """See what the tab tells of on whatever data."""
    assert [field["__typename"] for field in answer.values()] == [
        "OpenWalletPayload", "TopUpPayload", "SetLimitPayload", "SpendPayload", "LimitExceeded",
    ]  # fmt: skip
    rule, within, beyond = answer["setLimit"]["rule"], answer["within"], answer["beyond"]
    assert (rule["flow"], rule["unit"], rule["timeZone"], rule["maxAmount"]) == ("SPEND", "DAY", "Europe/Berlin", "50")
    [use] = within["wallet"]["limits"]
    assert (within["balance"]["amount"], use["used"], use["remaining"]) == ("70", "30", "20")
    assert (beyond["used"], beyond["remaining"], beyond["required"]) == ("30", "20", "21")
    assert beyond["balance"]["amount"] == "70"
    assert datetime.now(UTC) < datetime.fromisoformat(beyond["resetsAt"]) == datetime.fromisoformat(use["resetsAt"])
