"""Databases of their own for tests of migrations."""

from collections.abc import Callable

import pytest
from schemas import upgrade

from wallet_gql.settings import Settings


@pytest.fixture
def empty(new_database: Callable[..., Settings]) -> Settings:
    """A database without anything in it."""
    return new_database("migrations", template="template0")


@pytest.fixture
def migrated(empty: Settings) -> Settings:
    upgrade(empty)
    return empty
