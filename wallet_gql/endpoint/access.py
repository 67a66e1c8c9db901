"""Who sends a request: by the credentials of its Authorization header."""

from typing import Final

from wallet_gql.domain.access import ANYONE, Caller
from wallet_gql.domain.api_keys import PREFIX
from wallet_gql.domain.errors import Unauthenticated, Unavailable
from wallet_gql.operations.opening import Ledger

_CREDENTIALS_BYTES_MAX: Final = 16 * 1024

_HOW: Final = "send it as Authorization: Bearer wk_…"


async def authenticate(credentials: bytes | None, ledger: Ledger | None, *, is_open: bool) -> Caller:
    """Return who sends a request; raises `Unauthenticated`, or `Unavailable` where the keys are not known.

    Where access is open, whoever sends no credentials may do anything; wrong ones are wrong there, too.
    """
    if credentials is None:
        if is_open:
            return ANYONE
        raise Unauthenticated(f"This service answers callers with an API key or a token only: {_HOW}.")
    scheme, _, token = credentials.strip().partition(b" ")
    if scheme.lower() != b"bearer" or b"," in token or len(token) > _CREDENTIALS_BYTES_MAX:
        raise Unauthenticated(f"The Authorization header does not have one bearer token: {_HOW}.")
    if ledger is None:
        raise Unavailable("The ledger is not open yet.")
    text = token.strip().decode("latin-1")
    if ledger.tokens is not None and not text.startswith(PREFIX):
        return await ledger.tokens.find(text)
    caller = await ledger.keys.find(text)
    if caller is None:
        raise Unauthenticated(f"The API key is not known, was revoked or has expired: {_HOW}.")
    return caller
