"""What a hostile caller costs the others: a probe's latency while documents at every limit are sent.

Prints the slowest probe beside each kind of document; ends with 1 if one took more than 100 ms longer than the median
of the quiet ones.
"""

import statistics
import sys
import threading
import time

import httpx

DELAY_MAX_SECONDS = 0.1
WALLET = 'wallet(ownerId: "a")'

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
}


def probe(client: httpx.Client, url: str) -> float:
    """Return how many seconds the smallest request takes."""
    started = time.perf_counter()
    client.post(url, json={"query": "{ __typename }"}).raise_for_status()
    return time.perf_counter() - started


def main(url: str) -> int:
    """Probe a server that `wallet-gql serve --demo` runs at `url`."""
    with httpx.Client(timeout=30) as client:
        quiet = statistics.median(probe(client, url) for _ in range(200))
        print(f"{'quiet':20} {quiet * 1000:6.1f} ms (median)")
        worst = 0.0
        for name, document in DOCUMENTS.items():
            stop = threading.Event()

            def attack(document: str = document, stop: threading.Event = stop) -> None:
                with httpx.Client(timeout=30) as attacker:
                    for n in range(60):
                        if stop.is_set():
                            return
                        # Another text each time, so that nothing is remembered.
                        attacker.post(url, json={"query": f"{document} #{n}"})

            attacker = threading.Thread(target=attack)
            attacker.start()
            slowest = max(probe(client, url) for _ in range(100))
            stop.set()
            attacker.join()
            worst = max(worst, slowest)
            print(f"{name:20} {slowest * 1000:6.1f} ms (slowest of 100)")
    return int(worst - quiet > DELAY_MAX_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/graphql"))
