"""One timer tells each of many deadlines, and nothing of what was taken out before."""

import asyncio
import gc
import weakref
from typing import Final

from wallet_gql.operations.deadlines import LATE_SECONDS_MAX, Deadlines

# Much more than any of this takes: the machine may be busy.
PATIENCE_SECONDS: Final = 60


class Told:
    """What was told, and when."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.times: dict[str, float] = {}
        self._came = asyncio.Event()

    def __call__(self, key: str) -> None:
        self.keys.append(key)
        self.times[key] = asyncio.get_running_loop().time()
        self._came.set()

    async def until(self, count: int) -> list[str]:
        """Wait for so many."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.keys) < count:
                self._came.clear()
                await self._came.wait()
        return self.keys


async def test_each_is_told_once_when_its_own_has_passed() -> None:
    told = Told()
    deadlines = Deadlines(told)
    now = asyncio.get_running_loop().time()
    # The first that comes is not the first that ends.
    ends = {"late": now + 0.3, "early": now + 0.05, "near": now + 0.051, "past": now - 1, "never": now + 3600}
    for key, deadline in ends.items():
        deadlines.put(key, deadline)
    assert await told.until(4) == ["past", "early", "near", "late"]
    assert all(time >= ends[key] for key, time in told.times.items())
    assert [deadlines.take_out(key) for key in ends] == [False, False, False, False, True]
    assert not deadlines.take_out("never")


async def test_what_was_taken_out_is_not_told() -> None:
    told = Told()
    deadlines = Deadlines(told)
    soon = asyncio.get_running_loop().time() + 0.05
    for key in "abc":
        deadlines.put(key, soon)
    assert deadlines.take_out("b")
    await told.until(2)
    await asyncio.sleep(2 * LATE_SECONDS_MAX)
    assert told.keys == ["a", "c"]


async def test_one_that_is_told_may_come_in_again_or_take_out_another() -> None:
    loop = asyncio.get_running_loop()
    told = Told()

    def tell(key: str) -> None:
        told(key)
        deadlines.take_out("other")
        if len(told.keys) < 3:
            deadlines.put("again", loop.time() + 0.01)

    deadlines = Deadlines(tell)
    soon = loop.time() + 0.02
    deadlines.put("again", soon)
    deadlines.put("other", soon)
    assert await told.until(3) == ["again"] * 3


async def test_many_that_pass_one_by_one_are_looked_at_together() -> None:
    loop = asyncio.get_running_loop()
    told = Told()
    looks: set[float] = set()

    class Counted(Deadlines[str]):
        def _look(self) -> None:
            looks.add(loop.time())
            super()._look()

    deadlines = Counted(told)
    began = loop.time()
    for n in range(2000):
        deadlines.put(str(n), began + 0.05 + n / 10_000)
    assert await told.until(2000) == [str(n) for n in range(2000)]
    assert len(looks) <= (loop.time() - began) / LATE_SECONDS_MAX + 2


async def test_nothing_of_what_was_taken_out_is_kept() -> None:
    class Kept:
        pass

    deadlines: Deadlines[Kept] = Deadlines(lambda _: None)
    kept = Kept()
    deadlines.put(kept, asyncio.get_running_loop().time() + 3600)
    deadlines.take_out(kept)
    seen = weakref.ref(kept)
    gc.disable()
    try:
        del kept
        assert seen() is None
    finally:
        gc.enable()
