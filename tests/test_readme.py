import asyncio
import json
import re
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from conftest import Served, environment
from newcomer import README, ROOT, ask, conversation, paste_the_readme, paste_what_serve_printed, play_the_tabs

from wallet_gql.operations.assets import set_asset
from wallet_gql.operations.opening import open_ledger
from wallet_gql.settings import Settings

API = ROOT / "docs" / "api.md"
STEPS = {"the printed line": paste_what_serve_printed, "the README": paste_the_readme, "the tabs": play_the_tabs}


@pytest.fixture
def fresh(serve: Callable[..., Served], new_database: Callable[[str], Settings]) -> Iterator[Served]:
    """A server on demo data of its own, as `make run` starts it the first time."""
    served = serve(environment(new_database("newcomer")), "--demo")
    yield served
    served.process.terminate()
    served.process.wait()


@pytest.mark.parametrize("order", list(permutations(STEPS)), ids=" then ".join)
async def test_what_a_newcomer_pastes_answers_as_told(fresh: Served, order: tuple[str, ...]) -> None:
    for step in order:
        await STEPS[step](fresh)


@pytest.fixture(scope="session")
def demo(serve: Callable[..., Served], new_database: Callable[[str], Settings]) -> Served:
    """A server on demo data that only the pages' examples touch, with the lots that the API's page speaks of."""
    settings = new_database("readme")
    served = serve(environment(settings), "--demo")

    async def give_lots() -> None:
        async with open_ledger(settings) as ledger:
            await set_asset(ledger, "DIAMOND", has_lots=True)

    asyncio.run(give_lots())
    return served


def same(shown: Any, real: Any) -> bool:
    """Compare an answer with what a page shows of it, where "…" stands for any text."""
    if isinstance(shown, dict) and isinstance(real, dict):
        return shown.keys() == real.keys() and all(same(shown[name], real[name]) for name in shown)
    if isinstance(shown, list) and isinstance(real, list):
        return len(shown) == len(real) and all(map(same, shown, real))
    return bool(shown == real or (shown == "…" and isinstance(real, str)))


def ids(shown: Any, real: Any) -> Iterator[str]:
    """Return what an answer has where the page shows "…" for an id."""
    if isinstance(shown, dict):
        for name, value in shown.items():
            if name == "id" and value == "…":
                yield real[name]
            else:
                yield from ids(value, real[name])


async def test_every_example_of_the_api_page_gives_the_answer_that_it_shows(demo: Served) -> None:
    requests = conversation(API)
    assert len(requests) == API.read_text().count("```graphql")
    last = ""
    for query, answer in requests:
        # In a request "…" is the id that an answer showed last.
        real = await ask(demo.url, query.replace('"…"', json.dumps(last)))
        assert same(answer, real), f"{query} gives {json.dumps(real)}"
        last = next(ids(answer, real), last)


@pytest.mark.parametrize("page", [README, *(ROOT / "docs").rglob("*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
