import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Served, environment

from wallet_gql.settings import Settings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
API = ROOT / "docs" / "api.md"


def conversation(page: Path) -> list[tuple[str, Any]]:
    """Return a page's requests, each with the answer that stands below it."""
    pairs = re.findall(r"```graphql\n(.*?)```\n\n```json\n(.*?)```", page.read_text(), re.DOTALL)
    return [(query, json.loads(answer)) for query, answer in pairs]


@pytest.fixture(scope="session")
def demo(serve: Callable[..., Served], new_database: Callable[[str], Settings]) -> Served:
    """A server on demo data that nobody has touched, as `make run` starts it the first time."""
    return serve(environment(new_database("readme")), "--demo")


async def ask(url: str, query: str) -> Any:
    async with httpx.AsyncClient() as client:
        return (await client.post(url, json={"query": query})).json()


async def test_the_conversation_gives_exactly_the_answers_that_the_readme_shows(demo: Served) -> None:
    requests = conversation(README)
    assert len(requests) == 4
    for query, answer in requests:
        assert await ask(demo.url, query) == answer
    # The first request again, as the README tells the reader to.
    again = await ask(demo.url, requests[0][0])
    assert again["data"]["topUp"]["alreadyProcessed"] is True
    assert again["data"]["topUp"]["transaction"]["balanceAfter"] == "899"


def same(shown: Any, real: Any) -> bool:
    """Compare an answer with what a page shows of it, where "…" stands for any text."""
    if isinstance(shown, dict) and isinstance(real, dict):
        return shown.keys() == real.keys() and all(same(shown[name], real[name]) for name in shown)
    if isinstance(shown, list) and isinstance(real, list):
        return len(shown) == len(real) and all(map(same, shown, real))
    return bool(shown == real or (shown == "…" and isinstance(real, str)))


async def test_every_example_of_the_api_page_gives_the_answer_that_it_shows(demo: Served) -> None:
    requests = conversation(API)
    assert len(requests) == API.read_text().count("```graphql")
    for query, answer in requests:
        real = await ask(demo.url, query)
        assert same(answer, real), f"{query} gives {json.dumps(real)}"


@pytest.mark.parametrize("page", [README, *(ROOT / "docs").rglob("*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
