"""What callers say of lots: which one a bonus shall be of, and where a debit takes from."""

from collections.abc import Collection
from datetime import datetime

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.lots import PRIORITY_MAX, CreditSource, LotTerms
from wallet_gql.domain.postings import DEFAULT_TERMS
from wallet_gql.domain.text import check_campaign


def check_terms(expires_at: datetime | None, priority: int, campaign: str | None) -> LotTerms:
    """Return of which lot a bonus shall be. Raises `BadUserInput`; whether its end can be is judged with the bonus."""
    check_time(expires_at, "expiresAt")
    if not 0 <= priority <= PRIORITY_MAX:
        raise BadUserInput("priority", f"is {priority}", f"send 0, which is spent first, to {PRIORITY_MAX}")
    terms = LotTerms(CreditSource.BONUS, priority, check_campaign(campaign), expires_at)
    return DEFAULT_TERMS if terms == DEFAULT_TERMS else terms


def check_time(at: datetime | None, field: str) -> None:
    """Refuse a time that has no time zone."""
    if at is not None and at.tzinfo is None:
        raise BadUserInput(field, "has no time zone", 'send an offset or "Z" with it')


def check_sources(sources: Collection[CreditSource] | None) -> CreditSource | None:
    """Return the only source that a request takes from; None where it takes from all. Raises `BadUserInput`."""
    if sources is None:
        return None
    if not sources:
        raise BadUserInput("sources", "is empty", "name one, or leave it out to take from all")
    named = set(sources)
    return None if len(named) == len(CreditSource) else named.pop()
