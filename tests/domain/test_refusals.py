import orjson
import pytest

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.refusals import LimitExceeded, OutcomeCode, details_of, facts_of

GOLD = Asset(1, "GOLD", "Gold Coins", 0)


@pytest.mark.parametrize("used", [0, 2**63 - 1, 2**63, 2**64, 10**25])
def test_what_moved_in_all_is_kept_however_much_it_is(used: int) -> None:
    facts = LimitExceeded(GOLD, 0, 0, 1, used, 3, "5@1767323045000000", 10, 1, 1767323045000000, 1001, 7)
    kept = orjson.loads(orjson.dumps(details_of(facts)))
    assert facts_of(OutcomeCode.LIMIT_EXCEEDED, kept, GOLD) == facts
