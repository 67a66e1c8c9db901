"""People's tokens: whose are taken, and whose are not; where the keys come from, and how long they are good."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog
from authority import Authority
from cryptography.hazmat.primitives.asymmetric import rsa
from identity import AUDIENCE, ISSUER, Identity, jwks

from wallet_gql.domain.access import ActorKind, Scope
from wallet_gql.domain.errors import Unauthenticated, Unavailable
from wallet_gql.operations import tokens as module
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.tokens import KeysUnreadable, Tokens, read_keys
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio

CLAIMS = {"token_owner_claim": "player", "token_scopes_claim": "permissions"}
ALLOWED = ("RS256", "ES256", "EdDSA")


@pytest.fixture
def identity() -> Identity:
    return Identity()


@pytest.fixture
def file(tmp_path: Path, identity: Identity) -> Path:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(identity.jwk()))
    return path


def publish(file: Path, *keys: dict[str, object]) -> None:
    file.write_bytes(jwks(*keys))


def made(source: object, **more: Any) -> Tokens:
    return Tokens(Settings(token_keys=str(source), token_issuer=ISSUER, token_audience=(AUDIENCE,), **more))


async def known(source: object, **more: Any) -> Tokens:
    tokens = made(source, **more)
    await tokens.read()
    return tokens


def header(token: str) -> bytes:
    return f"Bearer {token}".encode()


async def let_in(tokens: Tokens, token: str) -> None:
    assert (await tokens.find(token)).kind is ActorKind.PERSON


async def refused(tokens: Tokens, token: str, fault: str) -> None:
    assert tokens.recall(header(token)) is None
    with pytest.raises(Unauthenticated, match=fault):
        await tokens.find(token)


@pytest.mark.parametrize("algorithm", ALLOWED)
async def test_a_token_says_who_its_bearer_is_and_what_it_gives(algorithm: str, file: Path) -> None:
    identity = Identity("key", algorithm)
    publish(file, identity.jwk())
    tokens = await known(file)
    for _ in range(2):
        caller = await tokens.find(identity.token("eu-1", "openid wallet:spend wallet:read audit:read key:read"))
        assert (caller.kind, caller.name, caller.owner_id) == (ActorKind.PERSON, "eu-1", "eu-1")
        # What is about others is not given by a token.
        assert caller.scopes == {Scope.SPEND, Scope.WALLET_READ}
        assert [caller.reaches(owner_id) for owner_id in ("eu-1", "eu-11", "eu-", "")] == [True, False, False, False]


async def test_claims_have_the_names_that_are_set(file: Path, identity: Identity) -> None:
    tokens = await known(file, **CLAIMS)
    caller = await tokens.find(identity.token("x", player="eu-2", permissions=["wallet:read", 5, "rubbish"]))
    assert caller.owner_id == "eu-2"
    assert caller.scopes == {Scope.WALLET_READ}
    await refused(tokens, identity.token("x"), "has no claim player")


@pytest.mark.parametrize("scope", [None, "", [], 5, {}, "wallet:read,wallet:spend", "WALLET:READ", " wallet:readx "])
async def test_what_is_not_a_scope_gives_none(file: Path, identity: Identity, scope: object) -> None:
    assert (await (await known(file)).find(identity.token("eu-1", scope))).scopes == frozenset()


def changed(token: str, **header: object) -> str:
    """Return a token with another header, and the signature that it had."""
    _, payload, signature = token.split(".")
    return f"{encoded(header)}.{payload}.{signature}"


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_a_token_that_says_that_it_needs_no_signature_is_refused(file: Path, identity: Identity) -> None:
    tokens = await known(file)
    for algorithm in ("none", "None", "nOnE", ""):
        token = changed(identity.token(), alg=algorithm, kid="first")
        await refused(tokens, token, "in a way, that this service does not take")
        await refused(tokens, token.rpartition(".")[0] + ".", "in a way, that this service does not take")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_public_key_is_not_taken_for_a_shared_secret(tmp_path: Path, algorithm: str) -> None:
    identity = Identity("first", "RS256")
    for content, secret in ((identity.pem(), identity.pem()), (jwks(identity.jwk()), jwks(identity.jwk()))):
        (tmp_path / "keys").write_bytes(content)
        tokens = await known(tmp_path / "keys")
        head = f"{encoded({'alg': algorithm, 'kid': 'first'})}.{identity.token().split('.')[1]}"
        digest = hmac.new(secret, head.encode(), getattr(hashlib, algorithm.replace("HS", "sha"))).digest()
        forged = f"{head}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
        await refused(tokens, forged, "in a way, that this service does not take")


def test_secrets_and_weak_keys_verify_nothing() -> None:
    weak = Identity("weak", "RS256", rsa.generate_private_key(65537, 1024))  # noqa: S505 - on purpose
    secret: dict[str, object] = {"kty": "oct", "k": encoded("secret"), "kid": "secret", "alg": "HS256"}
    for key in (weak.jwk(), secret, Identity().jwk(use="enc"), Identity().jwk(key_ops=["sign"]), Identity().jwk(alg=5)):
        assert read_keys(jwks(key), ALLOWED) == []
    with pytest.raises(KeysUnreadable):
        read_keys(weak.pem(), ALLOWED)


async def test_a_key_verifies_only_what_it_is_for(file: Path, identity: Identity) -> None:
    rsa_key = Identity("rsa", "RS256")
    publish(file, identity.jwk(), rsa_key.jwk())
    tokens = await known(file, token_algorithms=("RS256", "PS256", "ES256"))
    await let_in(tokens, rsa_key.token())
    crossed = changed(rsa_key.token(), alg="RS256", kid="first")
    await refused(tokens, crossed, "that this service does not take")
    # Its JWK says that it signs RS256.
    other_padding = jwt.encode({"sub": "eu-1"}, rsa_key.key, "PS256", {"kid": "rsa"})
    await refused(tokens, other_padding, "that this service does not take")


@pytest.mark.parametrize(
    ("claims", "fault"),
    [
        ({"iss": "https://evil.example.com"}, "is of another issuer"),
        ({"iss": None}, "has no claim iss"),
        ({"aud": "shop"}, "is made out to another audience"),
        ({"aud": None}, "has no claim aud"),
        ({"aud": ["shop", 5]}, "is made out to another audience"),
        ({"exp": None}, "has no claim exp"),
        ({"exp": -60}, "has expired"),
        ({"exp": "soon"}, "cannot be read"),
        ({"exp": float("inf")}, "cannot be read"),
        ({"nbf": 600}, "is not good yet"),
        ({"iat": 600}, "is not good yet"),
        ({"sub": None}, "has no claim sub"),
        ({"sub": ""}, "has a claim sub that is not an owner id"),
        ({"sub": "x" * 129}, "has a claim sub that is not an owner id"),
    ],
)
async def test_claims_that_are_wrong_let_nobody_in(
    file: Path, identity: Identity, claims: dict[str, object], fault: str
) -> None:
    now = int(time.time())
    # Times are by the clock: from now on.
    given = {name: now + value if isinstance(value, int) else value for name, value in claims.items()}
    await refused(await known(file), identity.token(**{"owner_id": "eu-1"} | given), fault)


async def test_clocks_may_differ_a_little(file: Path, identity: Identity) -> None:
    tokens = await known(file, token_leeway_seconds=30)
    now = int(time.time())
    await let_in(tokens, identity.token(exp=now - 10))
    await let_in(tokens, identity.token(nbf=now + 10))


@pytest.mark.parametrize(
    "token",
    [
        "", ".", "..", "a.b.c", "e30.e30.", "é.é.é", "x" * 16_000, f"{encoded([])}.e30.e30", f"{encoded({})}.e30.e30",
        f"{encoded({'alg': ['ES256'], 'kid': 'first'})}.e30.e30", f"{encoded({'alg': 'ES256', 'kid': {}})}.e30.e30",
        base64.urlsafe_b64encode(b"[" * 12_000).decode() + ".e30.e30",
        base64.urlsafe_b64encode(b'{"alg": 1' + b"0" * 10_000 + b"}").decode() + ".e30.e30",
    ],
    ids=range(13),
)  # fmt: skip
async def test_rubbish_is_no_token(file: Path, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await (await known(file)).find(token)


async def test_the_name_of_a_key_is_nothing_but_a_name(file: Path, identity: Identity) -> None:
    tokens = await known(file)
    for kid in ("../../etc/passwd", "/dev/null", "' OR 1=1 --", "https://evil.example.com/jwks", "x" * 5000, ""):
        await refused(tokens, Identity(kid, "ES256", identity.key).token(), "that this service does not take")
    # What a token says of where its key is, is not looked at.
    evil = Identity()
    headers: dict[str, object] = {
        "jku": "https://evil.example.com",
        "jwk": evil.jwk(),
        "x5u": "https://evil.example.com",
    }
    claims: dict[str, object] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "eu-1", "exp": int(time.time()) + 60}
    await refused(tokens, evil.signed(claims, headers), "has a wrong signature")
    await refused(tokens, identity.signed(claims, {"crit": ["exp"], "exp": 5}), "nor a JWT")


async def test_a_token_that_does_not_name_its_key_is_good_where_there_is_one(file: Path, identity: Identity) -> None:
    nameless = changed(identity.token(), alg="ES256")
    assert nameless.count(".") == 2
    token = jwt.encode(jwt.decode(identity.token(), options={"verify_signature": False}), identity.key, "ES256")
    await let_in(await known(file), token)
    publish(file, identity.jwk(), Identity("second").jwk())
    await refused(await known(file), token, "that this service does not take")


async def test_a_pem_with_one_public_key_will_do(tmp_path: Path, identity: Identity) -> None:
    (tmp_path / "key.pem").write_bytes(identity.pem())
    await let_in(await known(tmp_path / "key.pem"), identity.token())


async def test_a_token_that_was_verified_is_good_until_it_ends(
    file: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = await known(file, token_leeway_seconds=0)
    token, clock = identity.token(exp=int(time.time()) + 30), time.time()
    verified: list[str] = []
    verify = Tokens._verify

    def counted(self: Tokens, text: str, key: module.VerifyingKey) -> dict[str, Any]:
        verified.append(text)
        return verify(self, text, key)

    monkeypatch.setattr(Tokens, "_verify", counted)
    for _ in range(3):
        await let_in(tokens, token)
    assert len(verified) == 1
    monkeypatch.setattr(time, "time", lambda: clock + 31)
    assert tokens.recall(header(token)) is None
    await tokens.find(token)  # The library asks another clock, which says that it is good still.
    assert len(verified) == 2


async def test_a_header_is_remembered_for_a_minute_in_its_usual_spelling(
    file: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, token, clock = await known(file), identity.token(), time.time()
    assert tokens.recall(header(token)) is None
    caller = await tokens.find(token)
    assert tokens.recall(header(token)) == caller
    for other in (f"bearer {token}", f"Bearer  {token}", token, f"Bearer {token[:-1]}", f"Bearer {token} "):
        assert tokens.recall(other.encode()) is None
    monkeypatch.setattr(time, "time", lambda: clock + module.REMEMBERED_SECONDS + 1)
    assert tokens.recall(header(token)) is None
    await let_in(tokens, token)


async def test_so_many_headers_are_remembered_and_none_that_is_long(
    file: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED_MAX", 3)
    tokens = await known(file)
    long = identity.token(more="x" * module.HEADER_BYTES_MAX)
    assert (await tokens.find(long)).owner_id == "eu-1"
    assert tokens.recall(header(long)) is None
    for n in range(5):
        token = identity.token(f"eu-{n}")
        assert await tokens.find(token) == tokens.recall(header(token))
        assert len(tokens._by_header) <= 3


async def test_a_key_that_was_taken_away_ends(file: Path, identity: Identity) -> None:
    tokens, token = await known(file), identity.token()
    await let_in(tokens, token)
    publish(file, Identity("second").jwk())
    await tokens.read()
    await refused(tokens, token, "that this service does not take")


async def test_the_last_good_keys_stay_where_they_cannot_be_read(file: Path, identity: Identity) -> None:
    tokens = await known(file)
    for content in (b"", b"rubbish", b"[]", b'{"keys": 5}', b"{}", b"-----BEGIN RUBBISH", b" " * 70_000):
        await asyncio.to_thread(file.write_bytes, content)
        with pytest.raises(KeysUnreadable):
            await tokens.read()
        await let_in(tokens, identity.token())
    await asyncio.to_thread(file.unlink)
    with pytest.raises(KeysUnreadable, match="the file cannot be read: No such file or directory"):
        await tokens.read()
    await let_in(tokens, identity.token())


UNFIT: dict[str, object] = {"kty": "oct", "k": "c2VjcmV0", "kid": "first", "alg": "HS256"}


@pytest.mark.parametrize("keys", [[], [UNFIT], [5, None, {}], [Identity().jwk(use="enc")]], ids=range(4))
async def test_a_set_without_a_key_of_use_ends_all_tokens(file: Path, identity: Identity, keys: list[Any]) -> None:
    tokens, token = await known(file), identity.token()
    await let_in(tokens, token)
    publish(file, *keys)
    with structlog.testing.capture_logs() as logged:
        await tokens.read()
        await tokens.read()
    assert [line["event"] for line in logged] == ["the identity provider has no key that verifies a token"]
    for each in (token, identity.token("eu-2")):
        await refused(tokens, each, "that this service does not take")
    # And a key that comes lets people in again.
    publish(file, identity.jwk())
    tokens._asked_at -= module.READ_AGAIN_SECONDS
    await let_in(tokens, token)


async def test_keys_that_cannot_be_read_for_a_day_are_good_no_more(
    file: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, clock = await known(file), time.time()
    content = await asyncio.to_thread(file.read_bytes)
    await asyncio.to_thread(file.write_bytes, b"rubbish")
    token = identity.token(exp=int(clock) + 2 * module.TRUSTED_SECONDS)
    monkeypatch.setattr(time, "time", lambda: clock + module.TRUSTED_SECONDS - 30)
    # It is remembered now, but for no longer than the key is good.
    await let_in(tokens, token)
    monkeypatch.setattr(time, "time", lambda: clock + module.TRUSTED_SECONDS + 10)
    for each in (token, identity.token("eu-2")):
        with pytest.raises(Unavailable):
            await tokens.find(each)
    # The same keys, read again, are good again.
    await asyncio.to_thread(file.write_bytes, content)
    tokens._asked_at -= module.READ_AGAIN_SECONDS
    await let_in(tokens, token)


async def test_the_log_says_whether_the_last_keys_are_still_good(
    file: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_EVERY_SECONDS", 0.02)
    monkeypatch.setattr(module, "READ_AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(module, "TRUSTED_SECONDS", 0.3)
    settings = made(file).settings
    with structlog.testing.capture_logs() as logged:
        async with module.tokens(settings) as tokens:
            assert tokens is not None
            await let_in(tokens, identity.token())
            await asyncio.to_thread(file.unlink)
            async with asyncio.timeout(10):
                while not any(line["log_level"] == "error" for line in logged):  # noqa: ASYNC110 - nobody tells it
                    await asyncio.sleep(0.02)
    assert {(line["log_level"], line["last_ones_are_good"]) for line in logged} == {("warning", True), ("error", False)}
    assert {line["event"] for line in logged} == {"the identity provider's keys cannot be read"}


async def test_without_any_keys_tokens_are_not_known_to_be_wrong(tmp_path: Path, identity: Identity) -> None:
    with pytest.raises(Unavailable):
        await made(tmp_path / "missing").find(identity.token())


async def test_a_new_key_is_looked_for_at_once_and_not_more_often_than_every_half_minute(
    file: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, second, third = await known(file), Identity("second"), Identity("third")
    reads: list[str] = []
    content = module._content

    async def counted(source: str) -> bytes:
        reads.append(source)
        return await content(source)

    monkeypatch.setattr(module, "_content", counted)
    publish(file, identity.jwk(), second.jwk())
    await refused(tokens, second.token(), "that this service does not take")
    tokens._asked_at -= module.READ_AGAIN_SECONDS
    found = await asyncio.gather(*(tokens.find(second.token(f"eu-{n}")) for n in range(10)))
    assert {caller.name for caller in found} == {f"eu-{n}" for n in range(10)}
    for _ in range(10):
        await refused(tokens, third.token(), "that this service does not take")
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"token_keys": "k"}, "WALLET_TOKEN_ISSUER"),
        ({"token_keys": "k", "token_issuer": "i"}, "WALLET_TOKEN_AUDIENCE"),
        ({"token_keys": "http://id.example.com/jwks"}, "not an https one"),
        ({"token_keys": "k", "token_algorithms": ""}, "WALLET_TOKEN_ALGORITHMS"),
        ({"token_keys": "k", "token_algorithms": "HS256"}, "token_algorithms"),
        ({"token_keys": "k", "token_algorithms": "none"}, "token_algorithms"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], fault: str) -> None:
    usual = {} if fault.startswith("WALLET_TOKEN_I") or fault.endswith("AUDIENCE") else {
        "token_issuer": ISSUER, "token_audience": AUDIENCE
    }  # fmt: skip
    with pytest.raises(ValueError, match=fault):
        Settings(**usual | given)


@dataclass(slots=True)
class Provider:
    """An identity provider's server: what it answers is set, and what it was asked is kept."""

    url: str = ""
    answer: bytes = b""
    pieces: int = 1
    pause_seconds: float = 0
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        with suppress(ConnectionError):
            for _ in range(self.pieces):
                await asyncio.sleep(self.pause_seconds)
                writer.write(self.answer)
                await writer.drain()
            writer.close()

    def says(self, body: bytes, status: str = "200 OK", headers: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.answer = head.encode() + body


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("provider") / "ca")


@pytest.fixture
async def provider(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Provider]:
    certificate, key = authority.sign("localhost", "subjectAltName=DNS:localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, ssl=context)
    provider.url = f"https://localhost:{server.sockets[0].getsockname()[1]}/jwks"
    async with server:
        yield provider
        server.close()


async def test_keys_come_from_an_https_address(provider: Provider, identity: Identity) -> None:
    provider.says(jwks(identity.jwk()))
    await let_in(await known(provider.url), identity.token())
    assert provider.asked[0].startswith("GET /jwks HTTP/1.1")


@pytest.mark.parametrize(
    ("status", "headers", "body", "fault"),
    [
        ("302 Found", "Location: https://localhost/other\r\n", b"", "the answer's status is 302"),
        ("500 Internal Server Error", "", b"", "the answer's status is 500"),
        ("200 OK", "", b"<html>", "it is neither a JWK set nor a PEM"),
        ("200 OK", "", b" " * 1_000_000, "it has more than 65536 bytes"),
        ("200 OK", "Content-Encoding: gzip\r\n", gzip.compress(b" " * 50_000_000), "it is neither a JWK set"),
        ("rubbish", "", b"", "the address cannot be asked"),
    ],
)
async def test_an_answer_without_keys_is_none(
    provider: Provider, status: str, headers: str, body: bytes, fault: str
) -> None:
    provider.says(body, status, headers)
    with pytest.raises(KeysUnreadable, match=fault):
        await made(provider.url).read()
    assert len(provider.asked) == 1


async def test_a_provider_that_is_slow_or_never_ends_is_given_up(
    provider: Provider, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = made(provider.url)
    provider.says(jwks(identity.jwk()))
    await tokens.read()
    monkeypatch.setattr(module, "ANSWER_WITHIN_SECONDS", 0.3)
    for pause, answer, fault in ((1.0, provider.answer, "no answer within"), (0.001, ENDLESS, "more than|no answer")):
        provider.pause_seconds, provider.answer, provider.pieces = pause, answer, 10_000
        started = asyncio.get_running_loop().time()
        with pytest.raises(KeysUnreadable, match=fault):
            await tokens.read()
        assert asyncio.get_running_loop().time() - started < 5
    # Meanwhile whoever has a token is not kept waiting.
    await let_in(tokens, identity.token())


ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"


async def test_a_provider_whose_certificate_is_not_trusted_is_not_asked(
    provider: Provider, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    provider.says(jwks(identity.jwk()))
    with pytest.raises(KeysUnreadable, match="the address cannot be asked: ClientConnectorCertificateError"):
        await made(provider.url).read()
    assert provider.asked == []


async def test_a_provider_that_is_away_keeps_nobody_else_out(settings: Settings, identity: Identity) -> None:
    away = settings.model_copy(
        update={"token_keys": "https://127.0.0.1:9/", "token_issuer": ISSUER, "token_audience": (AUDIENCE,)}
    )
    async with open_ledger(away) as ledger:
        with pytest.raises(Unavailable):
            await ledger.callers.find(identity.token())
        assert await ledger.callers.keys.find("rubbish") is None
