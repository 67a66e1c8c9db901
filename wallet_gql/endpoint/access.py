"""Who sends a request: by the credentials of its Authorization header."""

from typing import Final

from wallet_gql.domain.access import ANYONE, Caller
from wallet_gql.domain.api_keys import PREFIX
from wallet_gql.domain.errors import Unauthenticated, Unavailable
from wallet_gql.operations.opening import Ledger

_CREDENTIALS_CHARACTERS_MAX: Final = 16 * 1024

_HOW: Final = "send it as Authorization: Bearer wk_…"


async def authenticate(credentials: bytes | None, ledger: Ledger | None, *, is_open: bool, has_tokens: bool) -> Caller:
    """Return who sends a request; raises `Unauthenticated`, or `Unavailable` where the keys are not known.

    Where access is open, whoever sends neither a key nor, where tokens are read, a token may do anything: a gateway's
    own credentials are none of ours. A wrong key is wrong there, too.
    """
    if credentials is None and is_open:
        return ANYONE
    if credentials is not None and ledger is not None:
        callers = ledger.callers
        caller = callers.keys.recall(credentials)
        if caller is None and callers.tokens is not None:
            caller = callers.tokens.recall(credentials)
        if caller is not None:
            return caller
    scheme, _, token = (credentials or b"").strip().partition(b" ")
    text = token.strip().decode("latin-1")
    is_key = text.startswith(PREFIX)
    if is_open and not (scheme.lower() == b"bearer" and (is_key or has_tokens)):
        return ANYONE
    if credentials is None:
        raise Unauthenticated(f"This service answers callers with an API key or a token only: {_HOW}.")
    if scheme.lower() != b"bearer" or "," in text or len(text) > _CREDENTIALS_CHARACTERS_MAX:
        raise Unauthenticated(f"The Authorization header does not have one bearer token: {_HOW}.")
    if ledger is None:
        raise Unavailable("The ledger is not open yet.")
    return await ledger.callers.find(text)
