"""What a hostile caller costs the others: a probe's latency while documents at every limit are sent.

Prints the slowest probe beside each kind of document; ends with 1 if one took more than 100 ms longer than the median
of the quiet ones.
"""

import json
import statistics
import sys
import time
from multiprocessing import Event, Process
from multiprocessing.synchronize import Event as EventType
from uuid import uuid4

import httpx

DELAY_MAX_SECONDS = 0.1
WALLET = 'wallet(ownerId: "a")'

OWNERS = ", ".join(['"demo-alice"'] * 18)
PAGES = "{ wallets(ownerIds: [" + OWNERS + "]) { transactions(first: 100) {"
TOP_UP = """
mutation($key: UUID!) { topUp(input: {ownerId: "demo-alice", amount: 1, idempotencyKey: $key}) { __typename } }
"""

DOCUMENTS = {
    "fragment bomb": "{...f0}"
    + "".join(f"fragment f{n} on Query{{...f{n + 1} ...f{n + 1}}}" for n in range(25))
    + "fragment f25 on Query{__typename}",
    "1 MiB of text": "{" + WALLET + "{" + "id " * 340_000 + "}}",
    "64 KiB of fields": "{" + WALLET + "{" + "id " * 21_000 + "}}",
    "misspelled fields": "{" + WALLET + "{" + " ".join(f"balanc{n}" for n in range(1400)) + "}}",
    "operations": "".join(f"query a{n}{{__typename}}" for n in range(380)),
    "bad input object": "mutation{topUp(input:{" + " ".join(f"amoun{n}:1" for n in range(480)) + "}){__typename}}",
    "deep": "{" + "a{" * 950 + "b" + "}" * 950 + "}",
    "two whole pages": '{ wallets(ownerIds: ["demo-alice", "demo-bob"]) { transactions(first: 100) { totalCount } } }',
    "18 long pages": PAGES + "nodes { id type amount executedAt }}}}",
    "18 pages with entries": PAGES.replace("100", "33") + "nodes { id entries { account amount direction } }}}}",
    "990 bad ids": "query($ids: [ID!]!) { nodes(ids: $ids) { id } }",
    "1 MiB of ids": "query($ids: [ID!]!) { nodes(ids: $ids) { id } }",
    "an input of 990 fields": "mutation($i: TopUpInput!) { topUp(input: $i) { __typename } }",
}

VARIABLES: dict[str, object] = {
    "990 bad ids": {"ids": [{} for _ in range(990)]},
    "1 MiB of ids": {"ids": ["x" * 10_000] * 100},
    "an input of 990 fields": {"i": {f"amoun{n}": "9" * 100 for n in range(990)}},
}


ATTACKERS = 8


def attack(url: str, name: str, attacker: int, stop: EventType) -> None:
    """Send one kind of document over and over, bounded in count; another text each time, so that none is known."""
    body = json.dumps({"query": DOCUMENTS[name] + " #number", "variables": VARIABLES.get(name)}).encode()
    with httpx.Client(timeout=60, headers={"Content-Type": "application/json"}) as client:
        for n in range(1000):
            if stop.is_set():
                return
            client.post(url, content=body.replace(b"#number", b"#%d.%d" % (attacker, n)))


def probe(client: httpx.Client, url: str) -> float:
    """Return how many seconds the smallest request takes."""
    started = time.perf_counter()
    client.post(url, json={"query": "{ __typename }"}).raise_for_status()
    return time.perf_counter() - started


def main(url: str) -> int:
    """Probe a server that `wallet-gql serve --demo` runs at `url`."""
    with httpx.Client(timeout=60) as client:
        for _ in range(100):
            client.post(url, json={"query": TOP_UP, "variables": {"key": str(uuid4())}}).raise_for_status()
        quiet = statistics.median(probe(client, url) for _ in range(200))
        print(f"{'quiet':25} {quiet * 1000:6.1f} ms (median)")
        worst = 0.0
        for name in DOCUMENTS:
            for attackers in (1, ATTACKERS):
                stop = Event()
                processes = [Process(target=attack, args=(url, name, n, stop)) for n in range(attackers)]
                for process in processes:
                    process.start()
                slowest = max(probe(client, url) for _ in range(100))
                stop.set()
                for process in processes:
                    process.join()
                worst = max(worst, slowest)
                print(f"{name:25} {slowest * 1000:6.1f} ms (slowest of 100 beside {attackers})")
    return int(worst - quiet > DELAY_MAX_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/graphql"))
