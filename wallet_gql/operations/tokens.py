"""Tokens of people: JWTs of the platform's identity provider, verified with its public keys.

The keys are a JWK set, in a file or at an https address, or a PEM file with one public key. They are read when the
ledger is opened and every five minutes from then on, so that a key that was taken away ends; a token that names a key
which is not known has them read at once, at most every 30 seconds. A set without a key of use is an answer like any
other: all tokens are refused. Where no set can be read, the last one stays for a day; then no keys are known.
"""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

import jwt
import orjson
import structlog
from cachetools import LRUCache
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from wallet_gql.domain.access import PERSONAL_SCOPES, ActorKind, Caller
from wallet_gql.domain.errors import BadUserInput, Fault, Unauthenticated, Unavailable
from wallet_gql.domain.text import check_owner_id
from wallet_gql.settings import Settings

READ_EVERY_SECONDS: Final = 300
READ_AGAIN_SECONDS: Final = 30
"""How often a key that is not known may have the keys read."""

ANSWER_WITHIN_SECONDS: Final = 5
KEYS_BYTES_MAX: Final = 64 * 1024
KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2048

TRUSTED_SECONDS: Final = 24 * 60 * 60
"""How long keys stay good that cannot be read again: whoever cuts the provider off keeps no key alive for ever."""

REMEMBERED_SECONDS: Final = 60
"""How long a token that was verified is not verified again; never past its end, or the end of its key."""

REMEMBERED_MAX: Final = 10_000

HEADER_BYTES_MAX: Final = 4096
"""A longer header is not remembered itself, only a hash of its token: so they take 40 MB at most."""

_SCOPES: Final = {scope.value: scope for scope in PERSONAL_SCOPES}

_log = structlog.get_logger()


class KeysUnreadable(Fault):
    """The identity provider's keys cannot be read; the message says why."""


def _refused(why: str, remedy: str = "send one that the identity provider issues for this service") -> Unauthenticated:
    return Unauthenticated(f"The token {why}: {remedy}.")


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key, and what a token that it verifies may be signed with."""

    id: str | None
    """None for one that has no name: it verifies tokens whatever they say of their key."""
    key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
    algorithms: frozenset[str]


_Known: TypeAlias = tuple[float, Caller]
"""Until when a token is good, by the wall clock, and whose it is."""


@dataclass(slots=True)
class Tokens:
    """The keys as they were read last, and the people whose tokens were verified with them."""

    settings: Settings
    keys: Sequence[VerifyingKey] = ()
    _trusted_until: float = 0
    """By the wall clock; long ago where none were read yet."""
    _content: bytes = b""
    _remembered: LRUCache[bytes, _Known] = field(default_factory=lambda: LRUCache(REMEMBERED_MAX))
    """By the hashes of tokens."""
    _by_header: dict[bytes, _Known] = field(default_factory=dict, repr=False)
    """The same, by the usual header: to look one up costs a tenth of hashing it."""
    _asked_at: float = float("-inf")
    _reading: asyncio.Task[None] | None = None

    def recall(self, header: bytes) -> Caller | None:
        """Return whose token an Authorization header has; None where `find` has to tell."""
        # Compared by a hash that nobody can foresee, so that time tells nothing of a token.
        known = self._by_header.get(header)
        return known[1] if known is not None and time.time() < known[0] else None

    async def find(self, token: str) -> Caller:
        """Return whose token it is. Raises `Unauthenticated`, or `Unavailable` where no keys could be read for long."""
        content = token.encode()
        digest = sha256(content).digest()
        known = self._remembered.get(digest)
        if known is None or time.time() >= known[0]:
            # Nothing is awaited once it is verified: keys that end meanwhile would leave it remembered.
            known = self._remembered[digest] = await self._verified(token)
        if len(content) < HEADER_BYTES_MAX:
            if len(self._by_header) >= REMEMBERED_MAX:
                self._by_header.clear()
            # In its one usual spelling: others are as many as somebody likes.
            self._by_header[b"Bearer " + content] = known
        return known[1]

    async def _verified(self, token: str) -> _Known:
        header = _header(token)
        candidates = self._candidates(header)
        if not candidates and self._may_read():
            with suppress(Exception):
                await self.read()
            candidates = self._candidates(header)
        if not self.are_trusted:
            raise Unavailable("The identity provider's keys could not be read.")
        if len(candidates) != 1:
            raise _refused("is signed with a key, or in a way, that this service does not take")
        claims = self._verify(token, candidates[0])
        caller = _caller(claims, self.settings)
        return min(time.time() + REMEMBERED_SECONDS, int(claims["exp"]), self._trusted_until), caller

    async def read(self) -> None:
        """Read the keys; who asks for it meanwhile waits for the same. Raises `KeysUnreadable`."""
        if self._reading is None or self._reading.done():
            self._asked_at = asyncio.get_running_loop().time()
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        assert self.settings.token_keys is not None
        content = await _content(self.settings.token_keys)
        if content != self._content:
            self.keys = read_keys(content, self.settings.token_algorithms)
            self._content = content
            self._remembered.clear()
            self._by_header.clear()
            if not self.keys:
                allowed = list(self.settings.token_algorithms)
                _log.warning("the identity provider has no key that verifies a token", algorithms=allowed)
        self._trusted_until = time.time() + TRUSTED_SECONDS

    @property
    def are_trusted(self) -> bool:
        """Whether the keys were read not too long ago."""
        return time.time() < self._trusted_until

    def _may_read(self) -> bool:
        is_under_way = self._reading is not None and not self._reading.done()
        return is_under_way or asyncio.get_running_loop().time() - self._asked_at >= READ_AGAIN_SECONDS

    def _candidates(self, header: Mapping[str, object]) -> list[VerifyingKey]:
        """Return the keys that may have signed a token; more than one where it does not say which."""
        if not self.are_trusted:
            return []
        algorithm, kid = str(header.get("alg")), header.get("kid")
        return [key for key in self.keys if algorithm in key.algorithms and (key.id is None or kid in (None, key.id))]

    def _verify(self, token: str, key: VerifyingKey) -> dict[str, Any]:
        owner_claim = self.settings.token_owner_claim
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=sorted(key.algorithms),
                issuer=self.settings.token_issuer,
                audience=self.settings.token_audience,
                leeway=self.settings.token_leeway_seconds,
                options={"require": ["exp", "iss", "aud", owner_claim], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            raise _refused("has expired", "get a new one from the identity provider") from None
        except jwt.ImmatureSignatureError:
            raise _refused("is not good yet", "send it later, or see whether the clocks agree") from None
        except jwt.InvalidSignatureError:
            raise _refused("has a wrong signature") from None
        except jwt.InvalidIssuerError:
            raise _refused("is of another issuer") from None
        except jwt.InvalidAudienceError:
            raise _refused("is made out to another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise _refused(f"has no claim {error.claim}") from None
        except (jwt.InvalidTokenError, ValueError, OverflowError, RecursionError):
            raise _refused("cannot be read") from None


def _header(token: str) -> Mapping[str, object]:
    try:
        return jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise _refused("is neither an API key nor a JWT") from None


def _caller(claims: Mapping[str, Any], settings: Settings) -> Caller:
    """Return who a verified token says that its bearer is, and what it gives. Raises `Unauthenticated`."""
    owner_id, scopes = claims[settings.token_owner_claim], claims.get(settings.token_scopes_claim, ())
    try:
        check_owner_id(owner_id if isinstance(owner_id, str) else "", settings.token_owner_claim)
    except BadUserInput:
        raise _refused(f"has a claim {settings.token_owner_claim} that is not an owner id") from None
    names = scopes.split(" ") if isinstance(scopes, str) else scopes if isinstance(scopes, list) else ()
    # What else the identity provider gives is none of our business.
    given = frozenset(_SCOPES[name] for name in names if isinstance(name, str) and name in _SCOPES)
    return Caller(ActorKind.PERSON, owner_id, given, owner_id=owner_id, budget_id=f"person:{owner_id}")


def read_keys(content: bytes, allowed: Sequence[str]) -> list[VerifyingKey]:
    """Read a JWK set, or a PEM with one public key; those that verify nothing are left out.

    A set may have none that is left; a PEM is not one. Raises `KeysUnreadable`.
    """
    if content.lstrip().startswith(b"-----BEGIN"):
        return [_pem_key(content, allowed)]
    try:
        listed = orjson.loads(content)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise KeysUnreadable("it is neither a JWK set nor a PEM with a public key") from None
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise KeysUnreadable(f"its keys are not a list of at most {KEYS_MAX}")
    found = [key for each in listed if (key := _jwk(each, allowed)) is not None]
    return [key for key in found if key.algorithms]


def _pem_key(content: bytes, allowed: Sequence[str]) -> VerifyingKey:
    try:
        key = load_pem_public_key(content)
    except ValueError:
        raise KeysUnreadable("it is a PEM, but not one with a public key") from None
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey):
        raise KeysUnreadable("its key is neither RSA nor EC nor Ed25519")
    algorithms = _algorithms(key, allowed)
    if not algorithms:
        raise KeysUnreadable(f"its key is for none of {', '.join(allowed)}")
    return VerifyingKey(None, key, algorithms)


def _jwk(jwk: object, allowed: Sequence[str]) -> VerifyingKey | None:
    """Read one key of a set; None for what is not for verifying, or not of a kind that is known."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or jwk.get("key_ops", ["verify"]) != ["verify"]:
        return None
    readers = {"RSA": RSAAlgorithm.from_jwk, "EC": ECAlgorithm.from_jwk, "OKP": OKPAlgorithm.from_jwk}
    try:
        key = readers[jwk.get("kty", "")](jwk)
    except (KeyError, TypeError, ValueError, jwt.InvalidKeyError):
        return None
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey):
        return None
    kid, own = jwk.get("kid"), jwk.get("alg")
    algorithms = frozenset(name for name in _algorithms(key, allowed) if own in (None, name))
    return VerifyingKey(kid if isinstance(kid, str) else None, key, algorithms)


def _algorithms(
    key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey, allowed: Sequence[str]
) -> frozenset[str]:
    """Return what a key may verify: a key of one kind is never taken for one of another."""
    match key:
        case RSAPublicKey():
            pattern = "[RP]S(256|384|512)" if key.key_size >= RSA_BITS_MIN else ""
        case EllipticCurvePublicKey():
            pattern = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}.get(key.curve.name, "")
        case Ed25519PublicKey():
            pattern = "EdDSA"
    return frozenset(name for name in allowed if re.fullmatch(pattern, name))


async def _content(source: str) -> bytes:
    """Return what a file or an https address has; raises `KeysUnreadable`."""
    is_address = source.startswith("https://")
    content = await (_fetched(source) if is_address else asyncio.to_thread(_read_file, Path(source)))
    if len(content) > KEYS_BYTES_MAX:
        raise KeysUnreadable(f"it has more than {KEYS_BYTES_MAX} bytes")
    return content


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(KEYS_BYTES_MAX + 1)
    except OSError as error:
        raise KeysUnreadable(f"the file cannot be read: {error.strerror}") from None


async def _fetched(url: str) -> bytes:
    import aiohttp  # noqa: PLC0415 - a fifth of a second for whoever has the keys in a file

    timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, allow_redirects=False, ssl=ssl.create_default_context()) as response,
        ):
            if response.status != 200:
                raise KeysUnreadable(f"the answer's status is {response.status}")
            content = bytearray()
            async for piece in response.content.iter_chunked(KEYS_BYTES_MAX):
                content += piece
                if len(content) > KEYS_BYTES_MAX:
                    break
            return bytes(content)
    except TimeoutError:
        raise KeysUnreadable(f"there was no answer within {ANSWER_WITHIN_SECONDS} seconds") from None
    except aiohttp.ClientError as error:
        raise KeysUnreadable(f"the address cannot be asked: {type(error).__name__}") from None


@asynccontextmanager
async def tokens(settings: Settings) -> AsyncIterator[Tokens | None]:
    """Keep the identity provider's keys until the block ends; None where there is no such provider.

    One that does not answer keeps nobody else from the service: tokens are `Unavailable` until it does.
    """
    if settings.token_keys is None:
        yield None
        return
    kept = Tokens(settings)

    async def read() -> None:
        try:
            await kept.read()
        except Exception as error:  # noqa: BLE001 - whatever it is, they are read again, or a key never ends
            reason = str(error) or type(error).__name__
            told = _log.warning if kept.are_trusted else _log.error
            told("the identity provider's keys cannot be read", reason=reason, last_ones_are_good=kept.are_trusted)

    async def keep() -> None:
        while True:
            await asyncio.sleep(READ_EVERY_SECONDS if kept.keys and kept.are_trusted else READ_AGAIN_SECONDS)
            await read()

    await read()
    task = asyncio.create_task(keep())
    try:
        yield kept
    finally:
        task.cancel()
        await asyncio.wait([task])
