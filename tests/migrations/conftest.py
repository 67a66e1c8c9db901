"""Databases of their own for tests of migrations."""

from collections.abc import Callable

import pytest
from conftest import MIGRATED

from wallet_gql.settings import Settings


@pytest.fixture
def empty(new_database: Callable[..., Settings]) -> Settings:
    """A database without anything in it."""
    return new_database("migrations", template="template0")


@pytest.fixture
def migrated(new_database: Callable[..., Settings]) -> Settings:
    """A database that the migrations were run on, and nothing else."""
    return new_database("migrations", template=MIGRATED)
