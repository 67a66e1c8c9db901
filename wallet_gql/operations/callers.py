"""Whoever sends requests: machines by API keys, people by tokens."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.domain.access import Caller
from wallet_gql.domain.api_keys import PREFIX
from wallet_gql.domain.errors import Unauthenticated
from wallet_gql.operations.api_keys import Keyring, keyring
from wallet_gql.operations.rates import Rates
from wallet_gql.operations.tokens import Tokens, tokens
from wallet_gql.settings import Settings


@dataclass(frozen=True, slots=True)
class Callers:
    """Everybody whom the service knows, and what each may ask for in a while."""

    keys: Keyring
    tokens: Tokens | None
    """None where there is no identity provider."""
    rates: Rates

    @property
    def is_nobody(self) -> bool:
        """Whether there is neither a key nor an identity provider."""
        return not self.keys.callers and self.tokens is None

    async def find(self, credentials: str) -> Caller:
        """Return whose API key or token it is; raises `Unauthenticated`, or `Unavailable` where that is not known."""
        if self.tokens is not None and not credentials.startswith(PREFIX):
            return await self.tokens.find(credentials)
        caller = await self.keys.find(credentials)
        if caller is None:
            raise Unauthenticated(
                "The API key is not known, was revoked or has expired: send it as Authorization: Bearer wk_…."
            )
        return caller


@asynccontextmanager
async def open_callers(engine: AsyncEngine, settings: Settings) -> AsyncIterator[Callers]:
    """Know who may ask until the block ends."""
    rates = Rates(settings)
    async with aclosing(rates), keyring(engine, settings.mode) as keys, tokens(settings) as people:
        yield Callers(keys, people, rates)
