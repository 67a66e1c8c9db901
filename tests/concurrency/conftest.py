"""What races run on: several ledgers, and what they are drawn by."""

import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings


@pytest.fixture
def seed() -> int:
    """What the test draws by; a failing run is repeated with TEST_SEED."""
    seed = int(os.environ.get("TEST_SEED", random.SystemRandom().getrandbits(32)))
    print(f"TEST_SEED={seed}")  # noqa: T201 - shown where the test fails
    return seed


@pytest.fixture
async def ledgers(settings: Settings, ledger: Ledger) -> AsyncIterator[list[Ledger]]:
    """Four ledgers with connections, lanes and treasury stripes of their own, as four server processes have."""
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(open_ledger(settings)) for _ in range(3)]
        yield [ledger, *others]
