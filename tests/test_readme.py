import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Served, environment

from wallet_gql.settings import Settings

README = Path(__file__).parent.parent / "README.md"
CONVERSATION = re.findall(r"```graphql\n(.*?)```\n\n(?:.*?\n\n)??```json\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture(scope="session")
def demo(serve: Callable[..., Served], new_database: Callable[[str], Settings]) -> Served:
    """A server on demo data that nobody has touched, as `make run` starts it the first time."""
    return serve(environment(new_database("readme")), "--demo")


async def ask(url: str, query: str) -> Any:
    async with httpx.AsyncClient() as client:
        return (await client.post(url, json={"query": query})).json()


async def test_the_conversation_gives_exactly_the_answers_that_the_readme_shows(demo: Served) -> None:
    assert len(CONVERSATION) == 4
    for query, answer in CONVERSATION:
        assert await ask(demo.url, query) == json.loads(answer)
    # The first request again, as the README tells the reader to.
    again = await ask(demo.url, CONVERSATION[0][0])
    assert again["data"]["topUp"]["alreadyProcessed"] is True
    assert again["data"]["topUp"]["transaction"]["balanceAfter"] == "899"


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
