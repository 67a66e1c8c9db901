"""A process that posts: it is told on standard input what to do, and writes on standard output what became of it.

Each request is sent again under its key at random, also while the first sending is under way, as clients do that lost
an answer.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from decimal import Decimal
from uuid import UUID

from batches import on_balance
from factories import POSTINGS

from wallet_gql.domain.postings import Posted, Refused
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.postings import PostingInput, PostingOutcome
from wallet_gql.settings import Settings


@dataclass(frozen=True)
class Job:
    """What a worker does: so many requests, drawn by `seed`, so many at once."""

    seed: int
    owners: list[str]
    requests: int
    at_once: int
    shared_keys: list[str]


@dataclass(frozen=True)
class Answer:
    """How a sending of a request ended."""

    owner: str
    key: str
    amount_minor: int
    outcome: str
    transaction_id: str
    already_processed: bool


def draw(job: Job) -> list[tuple[str, PostingInput]]:
    """Draw a worker's sendings. Shared keys are those that other workers send the same request under."""
    chance = random.Random(job.seed)  # noqa: S311 - drawn again by its seed
    drawn: list[tuple[str, PostingInput]] = []
    for _ in range(job.requests):
        verb = chance.choice(["top_up", "bonus", "spend", "spend"])
        key = UUID(int=chance.getrandbits(128), version=4)
        drawn.append((verb, PostingInput(chance.choice(job.owners), "GOLD", Decimal(chance.randint(1, 100)), key)))
    for n, key_text in enumerate(job.shared_keys):
        drawn.append(("top_up", PostingInput(job.owners[n % len(job.owners)], "GOLD", Decimal(n + 1), UUID(key_text))))
    again = [sending for sending in drawn for _ in range(chance.choice([0, 0, 1, 3]))]
    sendings = drawn + again
    chance.shuffle(sendings)
    return sendings


async def send(ledger: Ledger, verb: str, request: PostingInput) -> Answer:
    outcome: PostingOutcome = await POSTINGS[verb](ledger, request)
    match outcome:
        case Posted():
            transaction = outcome.transaction
            amount_minor, ending, transaction_id = transaction.amount_minor, "posted", str(transaction.id)
        case Refused():
            amount_minor, ending, transaction_id = 0, f"refused on {on_balance(outcome).balance_before_minor}", ""
        case _:
            raise AssertionError(outcome)
    key = str(request.idempotency_key)
    return Answer(request.owner_id, key, amount_minor, ending, transaction_id, outcome.already_processed)


async def work(job: Job, settings: Settings) -> list[Answer]:
    """Send what was drawn, at most so many at once."""
    async with open_ledger(settings) as ledger:
        places = asyncio.Semaphore(job.at_once)

        async def in_turn(verb: str, request: PostingInput) -> Answer:
            async with places:
                return await send(ledger, verb, request)

        return await asyncio.gather(*(in_turn(verb, request) for verb, request in draw(job)))


def check(answers: list[Answer]) -> dict[str, int]:
    """Return what each owner's balance moved by; all answers to one key must be the same but for `already_processed`.

    Only one of them may be the first.
    """
    first: dict[tuple[str, str], Answer] = {}
    firsts: Counter[tuple[str, str]] = Counter()
    moved: Counter[str] = Counter()
    for answer in answers:
        name = answer.owner, answer.key
        if name not in first:
            first[name] = answer
            moved[answer.owner] += answer.amount_minor
        known = first[name]
        same = (known.amount_minor, known.outcome, known.transaction_id)
        assert (answer.amount_minor, answer.outcome, answer.transaction_id) == same, (known, answer)
        firsts[name] += not answer.already_processed
    assert set(firsts.values()) == {1}, firsts
    return dict(moved)


if __name__ == "__main__":
    print(json.dumps([asdict(a) for a in asyncio.run(work(Job(**json.load(sys.stdin)), Settings()))]))  # noqa: T201
