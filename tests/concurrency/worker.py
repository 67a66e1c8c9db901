"""A process that posts: it is told on standard input what to do, and writes on standard output what became of it.

Each request is sent again under its key at random, also while the first sending is under way, as clients do that lost
an answer.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from batches import on_balance
from conftest import environment
from factories import POSTINGS

from wallet_gql.domain.postings import Posted, Refused
from wallet_gql.domain.refusals import LimitExceeded, RefundExceedsOriginal
from wallet_gql.ledger.reads import EntryName
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.postings import PostingInput
from wallet_gql.operations.reversals import ReverseInput, refund
from wallet_gql.settings import Settings


@dataclass(frozen=True)
class Job:
    """What a worker does: so many requests, drawn by `seed`, so many at once.

    With `spends` (by their owners: shard, account and seq) some of them are refunds.
    """

    seed: int
    owners: list[str]
    requests: int
    at_once: int
    shared_keys: list[str]
    spends: dict[str, tuple[int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """How a sending of a request ended."""

    owner: str
    key: str
    verb: str
    amount_minor: int
    outcome: str
    transaction_id: str
    already_processed: bool


class Sending(NamedTuple):
    """A request, and whose it is; a refund is no posting of an owner's that is named."""

    owner: str
    verb: str
    request: PostingInput | ReverseInput


def draw(job: Job) -> list[Sending]:
    """Draw a worker's sendings. Shared keys are those that other workers send the same request under."""
    chance = random.Random(job.seed)  # noqa: S311 - drawn again by its seed
    drawn: list[Sending] = []
    for _ in range(job.requests):
        verb = chance.choice(["top_up", "bonus", "spend", "spend", *["refund"] * (2 if job.spends else 0)])
        key = UUID(int=chance.getrandbits(128), version=4)
        owner, amount = chance.choice(job.owners), Decimal(chance.randint(1, 100))
        drawn.append(
            Sending(owner, verb, ReverseInput(EntryName(*job.spends[owner]), "", key, amount, description="Why"))
            if verb == "refund"
            else Sending(owner, verb, PostingInput(owner, "GOLD", amount, key))
        )
    for n, key_text in enumerate(job.shared_keys):
        owner = job.owners[n % len(job.owners)]
        drawn.append(Sending(owner, "top_up", PostingInput(owner, "GOLD", Decimal(n + 1), UUID(key_text))))
    again = [sending for sending in drawn for _ in range(chance.choice([0, 0, 1, 3]))]
    sendings = drawn + again
    chance.shuffle(sendings)
    return sendings


async def send(ledger: Ledger, sending: Sending) -> Answer:
    owner, verb, request = sending
    outcome = (
        await refund(ledger, request) if isinstance(request, ReverseInput) else await POSTINGS[verb](ledger, request)
    )
    match outcome:
        case Posted():
            transaction = outcome.transaction
            amount_minor, ending, transaction_id = transaction.amount_minor, "posted", str(transaction.id)
        case Refused(facts=RefundExceedsOriginal() as facts):
            amount_minor, ending, transaction_id = 0, f"refused with {facts.refundable_minor} left", ""
        case Refused(facts=LimitExceeded() as facts):
            amount_minor, ending, transaction_id = 0, f"limited on {facts.used_minor} for {facts.amount_minor}", ""
        case Refused():
            amount_minor, ending, transaction_id = 0, f"refused on {on_balance(outcome).balance_before_minor}", ""
        case _:
            raise AssertionError(outcome)
    return Answer(
        owner, str(request.idempotency_key), verb, amount_minor, ending, transaction_id, outcome.already_processed
    )


async def work(job: Job, settings: Settings) -> list[Answer]:
    """Send what was drawn, at most so many at once."""
    async with open_ledger(settings) as ledger:
        places = asyncio.Semaphore(job.at_once)

        async def in_turn(sending: Sending) -> Answer:
            async with places:
                return await send(ledger, sending)

        return await asyncio.gather(*(in_turn(sending) for sending in draw(job)))


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


async def run_worker(settings: Settings, job: Job) -> list[Answer]:
    """Let a process of its own do it."""
    tests = Path(__file__).parents[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",  # not as a file: its folder, which would come first, has a conftest of its own
        "concurrency.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(settings, PYTHONPATH=f"{tests.parent}:{tests}:{tests / 'support'}"),
    )
    output, _ = await process.communicate(json.dumps(asdict(job)).encode())
    assert process.returncode == 0
    return [Answer(**answer) for answer in json.loads(output)]


if __name__ == "__main__":
    print(json.dumps([asdict(a) for a in asyncio.run(work(Job(**json.load(sys.stdin)), Settings()))]))  # noqa: T201
