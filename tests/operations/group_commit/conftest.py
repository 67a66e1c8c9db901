import pytest
from batches import LONG_MARGIN_SECONDS, PATIENCE_SECONDS

from wallet_gql.operations import group_commit
from wallet_gql.settings import Settings


@pytest.fixture(scope="session")
def settings(settings: Settings) -> Settings:
    """The settings of this worker's database, with time-outs that a busy machine does not reach."""
    seconds = dict.fromkeys(
        (
            "request_deadline_seconds",
            "statement_timeout_seconds",
            "lock_timeout_seconds",
            "idle_in_transaction_timeout_seconds",
            "connect_timeout_seconds",
        ),
        PATIENCE_SECONDS,
    )
    return settings.model_copy(update=seconds)


@pytest.fixture
def long_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MARGIN_SECONDS", LONG_MARGIN_SECONDS)
