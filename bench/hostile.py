"""What a hostile caller costs the others: a probe's latency while hostile things are sent, and the server's memory.

`wallet-gql serve --demo` on this machine is what it probes; it takes about three minutes. Prints a row for each attack
and ends with 1 where a probe was too slow or not answered, or where memory did not come back.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Event, Process
from multiprocessing.synchronize import Event as EventType
from typing import Final, NamedTuple

import attacks
import httpx
from servers import Processes

DELAY_MAX_SECONDS: Final = 0.1
"""By how much hostile documents may delay the smallest request."""

PROBE_MAX_SECONDS: Final = 0.25
"""The slowest probe beside anything else."""

MEMORY_MAX: Final = 1.2
"""The server's memory afterwards, over what it was before; it may take a moment."""

MEMORY_WITHIN_SECONDS: Final = 10
ATTACKERS: Final = 8

WALLET: Final = 'wallet(ownerId: "a")'
OWNERS: Final = ", ".join(['"demo-alice"'] * 18)
PAGES: Final = "{ wallets(ownerIds: [" + OWNERS + "]) { transactions(first: 100) {"
PAGE_OF_50: Final = '{ transactions(ownerId: "demo-alice", first: 50) { nodes { id type amount balanceAfter } } }'

DOCUMENTS: Final = {
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
    "the schema, twice": "{a:__schema{types{fields{args{type{name}}}}} b:__schema{types{fields{args{type{name}}}}}}",
}

VARIABLES: Final[dict[str, object]] = {
    "990 bad ids": {"ids": [{} for _ in range(990)]},
    "1 MiB of ids": {"ids": ["x" * 10_000] * 100},
    "an input of 990 fields": {"i": {f"amoun{n}": "9" * 100 for n in range(990)}},
}


class Row(NamedTuple):
    """An attack, beside how many others of its kind, and the query that the others ask meanwhile."""

    name: str
    attack: attacks.Attack
    attackers: int = 1
    query: str = "{ __typename }"


ROWS: Final = (
    Row("C2: headers of 100 MB", attacks.endless_header, 2),
    Row("C2: URLs of 100 MB", attacks.endless_url, 2),
    Row("C2: 20,000 headers", attacks.many_headers, 2),
    Row("C3: 600 idle, half-head and half-body connections", attacks.silent_connections),
    Row("C3: bodies without end", attacks.endless_body, 2),
    Row("C3: 1,200 connections", attacks.too_many_connections),
    Row("C4: 60 clients that read nothing", attacks.unread_answers),
    Row("C4: 40 clients that have long asset codes echoed", attacks.unread_echoes),
    Row("C4: clients that hang up in mid-body", attacks.hang_ups, 2),
    Row("C5: forged cursors", attacks.forged_cursors, 2, PAGE_OF_50),
    Row("C6: 400 costly queries at once", attacks.costly_queries, 1, PAGE_OF_50),
    Row("C6: 150 costly mutations at once", attacks.costly_mutations, 1, PAGE_OF_50),
)


def send_documents(url: str, name: str, attacker: int, stop: EventType) -> None:
    """Send one kind of document over and over, bounded in count; another text each time, so that none is known."""
    body = json.dumps({"query": DOCUMENTS[name] + " #number", "variables": VARIABLES.get(name)}).encode()
    with httpx.Client(timeout=60, headers={"Content-Type": "application/json"}) as client:
        for n in range(1000):
            if stop.is_set():
                return
            client.post(url, content=body.replace(b"#number", b"#%d.%d" % (attacker, n)))


@contextmanager
def beside(*attackers: tuple[Callable[..., None], tuple[object, ...]]) -> Iterator[None]:
    """Run attackers until the block ends."""
    stop = Event()
    processes = [Process(target=attack, args=(*arguments, stop)) for attack, arguments in attackers]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in processes:
            process.join()


class Prober:
    """Probes the server, and remembers what went wrong."""

    def __init__(self, client: httpx.Client, url: str, server: Processes) -> None:
        """Take a client, the server's address and its process."""
        self._client = client
        self._url = url
        self._server = server
        self.faults: list[str] = []
        self.quiet = statistics.median(self.probe() for _ in range(200))

    def probe(self, query: str = "{ __typename }") -> float:
        """Return how many seconds a request takes."""
        started = time.perf_counter()
        answer = self._client.post(self._url, json={"query": query})
        if answer.status_code != 200 or "errors" in answer.json():
            self.faults.append(f"a probe was answered {answer.status_code}: {answer.text[:200]}")
        return time.perf_counter() - started

    def documents(self, name: str, attackers: int) -> None:
        """Probe beside one kind of document."""
        with beside(*((send_documents, (self._url, name, n)) for n in range(attackers))):
            slowest = max(self.probe() for _ in range(100))
        self._tell(f"{name}, {attackers}", slowest, self.quiet + DELAY_MAX_SECONDS)

    def attack(self, row: Row) -> None:
        """Probe beside an attack, and look at the memory afterwards."""
        before = self._server.memory_mb()
        with beside(*((row.attack, (self._url, n)) for n in range(row.attackers))):
            deadline = time.monotonic() + attacks.SECONDS
            slowest = 0.0
            while time.monotonic() < deadline:
                slowest = max(slowest, self.probe(row.query))
                time.sleep(0.01)
        after = self._server.memory_mb()
        patience = time.monotonic() + MEMORY_WITHIN_SECONDS
        while after > before * MEMORY_MAX and time.monotonic() < patience:
            time.sleep(0.2)
            after = self._server.memory_mb()
        self._tell(row.name, slowest, PROBE_MAX_SECONDS, f", memory {before:.0f} to {after:.0f} MB")
        if after > before * MEMORY_MAX:
            self.faults.append(f"{row.name}: memory went from {before:.0f} to {after:.0f} MB")

    def _tell(self, name: str, slowest: float, slowest_max: float, more: str = "") -> None:
        print(f"{name:50} {slowest * 1000:6.1f} ms (slowest){more}", flush=True)
        if slowest > slowest_max:
            self.faults.append(f"{name}: a probe took {slowest * 1000:.0f} ms, at most {slowest_max * 1000:.0f}")


def main(url: str) -> int:
    """Probe a server that `wallet-gql serve --demo` runs at `url`."""
    server = Processes(attacks.process_of(url))
    with httpx.Client(timeout=60) as client:
        attacks.prepare(client, url)
        prober = Prober(client, url, server)
        print(f"{'quiet':50} {prober.quiet * 1000:6.1f} ms (median)")
        # Its minute passes while the documents are sent.
        with attacks.kept_alive(url) as kept:
            for name in DOCUMENTS:
                for attackers in (1, ATTACKERS):
                    prober.documents(name, attackers)
        print(f"{'D5: connections used again after 60 s':50} {kept.answered} of {kept.count} answered")
        if kept.answered < kept.count:
            prober.faults.append(f"D5: {kept.count - kept.answered} of {kept.count} requests got no answer")
        for row in ROWS:
            prober.attack(row)
    print(*prober.faults, sep="\n")
    return int(bool(prober.faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/graphql"))
