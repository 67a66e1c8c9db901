"""Credentials that are forged, stale, huge, or not alone: told so at once, and nothing is read or said of them."""

import ast
import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from callers import Callers, codes, open_callers
from conftest import Served, environment
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from identity import AUDIENCE, ISSUER, Identity, jwks
from raw import TYPENAME, connected, head

import wallet_gql
from wallet_gql.db.engine import close, create_engine
from wallet_gql.domain.api_keys import make_key, read_key
from wallet_gql.operations import api_keys, tokens
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio

WHO: Final = "{ viewer { actor { name } } }"
OWNER: Final = "forged-1"


@pytest.fixture(scope="module")
async def callers(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callers]:
    async with open_callers(settings, tmp_path_factory.mktemp("provider")) as callers:
        callers.add_person("good", OWNER)
        await callers.add_key("key")
        yield callers


def encoded(value: object) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def claims(**more: object) -> dict[str, object]:
    now = int(time.time())
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": OWNER, "iat": now, "exp": now + 300, "scope": "wallet:read"} | more


def unsigned(algorithm: str, signature: str = "") -> str:
    return f"{encoded({'alg': algorithm, 'kid': 'first'})}.{encoded(claims())}.{signature}"


def signed_with(secret: bytes, digest: str) -> str:
    """Return a token that is signed with what everybody knows, as if it were shared with the provider only."""
    text = f"{encoded({'alg': digest.replace('sha', 'HS'), 'kid': 'first'})}.{encoded(claims())}"
    return f"{text}.{encoded(hmac.new(secret, text.encode(), getattr(hashlib, digest)).digest())}"


def badly_signed(identity: Identity) -> dict[str, str]:
    """Return tokens whose signature is none, or is made with what everybody knows, by what is wrong with them."""
    public, signature = identity.key.public_key(), identity.signed(claims()).split(".")[2]
    secrets = {
        "PEM": identity.pem(),
        "PEM without its end": identity.pem().strip(),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "point": public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        "JWK": json.dumps(identity.jwk()).encode(),
        "JWK set": jwks(identity.jwk()),
        "nothing": b"",
    }
    nothing = {f"alg {name!r}": unsigned(name) for name in ("none", "None", "NONE", "nOnE", "")}
    hashed = {
        f"{digest} with the {name}": signed_with(secret, digest)
        for digest in ("sha256", "sha384", "sha512")
        for name, secret in secrets.items()
    }
    return nothing | hashed | {"alg none, signed": unsigned("none", signature)}


def wrongly_named(identity: Identity) -> dict[str, str]:
    """Return tokens that name a key which there is not, signed with one that there is."""
    kids = ("second", "../../etc/passwd", "/dev/null", "../jwks.json", "first\x00", "first ", "FIRST", "' OR ''='", "")
    return {f"kid {kid!r}": Identity(kid, "ES256", identity.key).signed(claims()) for kid in kids}


def wrongly_issued(identity: Identity) -> dict[str, str]:
    """Return tokens that are signed well, and say something wrong."""
    now = int(time.time())
    wrong: dict[str, dict[str, object]] = {
        "issuer": {"iss": "https://id.example.com.evil.example"}, "issuer with a slash": {"iss": f"{ISSUER}/"},
        "audience": {"aud": "wallet2"}, "audiences": {"aud": ["shop"]}, "no audience": {"aud": []},
        "expired": {"exp": now - 3600}, "not yet": {"nbf": now + 3600}, "issued later": {"iat": now + 3600},
        "no owner": {"sub": ""}, "owners": {"sub": [OWNER]}, "owner with a blank": {"sub": f" {OWNER}"},
        "owner with a new line": {"sub": f"{OWNER}\n"},
    }  # fmt: skip
    return {name: identity.signed(claims(**given)) for name, given in wrong.items()}


def tampered(identity: Identity) -> dict[str, str]:
    """Return what is made of a good token, or is signed with another's key."""
    header, payload, signature = identity.signed(claims()).split(".")
    return {
        "another's key": Identity().signed(claims()),
        "another's claims": f"{header}.{encoded(claims(sub='somebody-else'))}.{signature}",
        "without its signature": f"{header}.{payload}.",
        "with a cut signature": f"{header}.{payload}.{signature[:-4]}",
        "of five parts": f"{header}.{payload}.{signature}.{signature}.{signature}",
        "signed twice": f"{header}.{payload}.{signature}{signature}",
        "detached": f"{header}..{signature}",
    }


async def refused(callers: Callers, credentials: str) -> str:
    callers.headers["forger"] = {"authorization": f"Bearer {credentials}"}
    answer, statements = await callers.cost("forger", WHO)
    assert (answer.status_code, codes(answer), statements) == (401, ["UNAUTHENTICATED"], []), credentials[:200]
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "data" not in answer.json()
    for part in filter(None, credentials.split(".")):
        assert len(part) < 12 or part not in answer.text
    assert len(answer.text) < 500
    return str(answer.json()["errors"][0]["message"])


@pytest.mark.parametrize("forge", [badly_signed, wrongly_named, wrongly_issued, tampered])
async def test_forged_tokens(callers: Callers, forge: Callable[[Identity], dict[str, str]]) -> None:
    for name, token in forge(callers.identity).items():
        assert await refused(callers, token), name
    assert await callers.data("good", WHO) == {"viewer": {"actor": {"name": OWNER}}}


async def test_a_token_is_no_key_and_a_key_no_token(callers: Callers) -> None:
    key = callers.headers["key"]["authorization"].removeprefix("Bearer ")
    token = callers.headers["good"]["authorization"].removeprefix("Bearer ")
    for text in (f"wk_{token}", f"{key}.{token}", key.replace("wk_live_", ""), token.replace(".", "_")):
        await refused(callers, text)


async def test_keys_that_let_nobody_in(callers: Callers) -> None:
    engine = create_engine(callers.ledger.settings, callers.ledger.settings.owner_url())
    revoked, expired = await callers.add_key("revoked"), await callers.add_key("expired", expires_in=timedelta(days=1))
    good = await callers.add_key("good key")
    for name in ("revoked", "expired"):
        assert await callers.data(name, WHO) == {"viewer": {"actor": {"name": name}}}
    await api_keys.revoke_key(engine, id_of(revoked))
    async with engine.begin() as connection:
        statement = f"UPDATE api_key SET expires_at = clock_timestamp() WHERE id = '{id_of(expired)}'"
        await connection.exec_driver_sql(statement)
    await close(engine)
    await callers.ledger.callers.keys.read()
    other = make_key("live")
    secretless = (good[:8], good[:16], good[:17], f"{good[:17]}{'0' * 49}", f"{good[:17]}{other[17:]}", good[:-1])
    for text in (*secretless, f"{good}0", good.swapcase(), good.replace("live", "test"), other):
        await refused_key(callers, text)
    for text in (revoked, expired):
        await refused_key(callers, text)
    assert await callers.data("good key", WHO) == {"viewer": {"actor": {"name": "good key"}}}


async def refused_key(callers: Callers, text: str) -> None:
    """An unknown key may have the keys read, as a new one does: once, whoever makes up how many."""
    callers.headers["forger"] = {"authorization": f"Bearer {text}"}
    answer = await callers.ask("forger", WHO)
    assert (answer.status_code, codes(answer)) == (401, ["UNAUTHENTICATED"]), text
    assert len(text) < 12 or text not in answer.text


def id_of(text: str) -> str:
    key = read_key(text)
    assert key is not None
    return key.id


def test_secrets_are_never_compared() -> None:
    """A comparison takes longer the more of a secret is right: keys are looked up by their hashes only."""
    package = Path(wallet_gql.__file__).parent
    files = ("endpoint/access.py", "operations/callers.py", "operations/api_keys.py", "domain/api_keys.py",
             "operations/tokens.py", "db/api_keys.py")  # fmt: skip
    compared = {
        operand.id
        for file in files
        for node in ast.walk(ast.parse((package / file).read_text()))
        if isinstance(node, ast.Compare) and any(isinstance(each, ast.Eq | ast.NotEq) for each in node.ops)
        for operand in (node.left, *node.comparators)
        if isinstance(operand, ast.Name)
    }
    assert "mode" in compared
    assert compared.isdisjoint({"text", "token", "credentials", "presented", "body", "secret", "hash_", "digest"})


async def test_of_a_key_its_hash_is_kept(callers: Callers) -> None:
    text = await callers.add_key("kept")
    digest = hashlib.sha256(text.encode()).digest()
    ring = callers.ledger.callers.keys
    assert digest in ring.callers
    assert text[17:] not in repr((ring, dict(ring.callers)))
    async with callers.ledger.engine.connect() as connection:
        (row,) = await connection.exec_driver_sql("SELECT k, hash FROM api_key AS k WHERE name = 'kept'")
    assert row.hash == digest
    assert text[17:] not in str(row.k)


async def test_a_silent_identity_provider(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are told to come back; keys are let in meanwhile. However many wait, it is asked at the start only."""
    asked: list[asyncio.StreamWriter] = []
    monkeypatch.setattr(tokens, "ANSWER_WITHIN_SECONDS", 0.5)
    server = await asyncio.start_server(lambda _, writer: asked.append(writer), "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    async with server, open_callers(settings, tmp_path, token_keys=url) as callers:
        for n in range(20):
            callers.add_person(f"person {n}", f"person-{n}")
        waiting = [asyncio.create_task(callers.ask(f"person {n}", WHO)) for n in range(20)]
        for _ in range(20):
            assert await callers.data("operator", WHO) == {"viewer": {"actor": {"name": "operator"}}}
        for answer in await asyncio.gather(*waiting):
            assert (answer.status_code, codes(answer)) == (200, ["UNAVAILABLE"])
        assert len(asked) == 1
        for writer in asked:
            writer.close()


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served], settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Served:
    file = tmp_path_factory.mktemp("provider") / "jwks.json"
    file.write_bytes(jwks(Identity().jwk()))
    given = {"ACCESS": "closed", "TOKEN_KEYS": str(file), "TOKEN_ISSUER": ISSUER, "TOKEN_AUDIENCE": AUDIENCE}
    return serve(environment(settings, **{f"WALLET_{name}": value for name, value in given.items()}))


@pytest.mark.parametrize(
    "token",
    [
        "a" * 100_000,
        ".".join(["e30" * 11_000] * 3),
        "." * 100_000,
        "wk_live_" + "0" * 100_000,
        base64.urlsafe_b64encode(b"[" * 75_000).decode() + ".e30.e30",
        "a" * 20_000,
        base64.urlsafe_b64encode(b'{"alg":' * 2_000).decode() + ".e30.e30",
    ],
    ids=["letters", "parts", "dots", "key", "nested", "small enough", "small and nested"],
)
def test_huge_credentials(served: Served, token: str) -> None:
    before, lines = len(served.log.read_bytes()), len(served.logged())
    with connected(served.url) as raw:
        raw.send(head(f"Authorization: Bearer {token}", f"Content-Length: {len(TYPENAME)}") + TYPENAME)
        answer = raw.answer()
    assert answer is not None
    assert answer.status in {401, 431}
    assert json.loads(answer.body)["errors"][0]["extensions"]["code"] in {"UNAUTHENTICATED", "BAD_USER_INPUT"}
    assert len(answer.body) < 1000
    assert httpx.post(served.url, json={"query": "{ __typename }"}).status_code == 401
    assert len(served.log.read_bytes()) < before + 2000
    assert {line.get("status") for line in served.logged()[lines:]} <= {401, 431}


@pytest.mark.parametrize("token", ["a" * 60_000, "e30." * 16_000, "." * 64_000, "wk_live_" + "0" * 64_000])
async def test_huge_credentials_within(callers: Callers, token: str) -> None:
    assert await refused(callers, token)


async def test_credentials_that_are_not_alone(callers: Callers) -> None:
    good, key = (callers.headers[name]["authorization"] for name in ("good", "key"))
    twice: list[list[tuple[str, str]]] = [
        [("authorization", good), ("authorization", good)],
        [("authorization", key), ("Authorization", key)],
        [("authorization", "Bearer x"), ("authorization", key)],
        [("authorization", key), ("authorization", "")],
        [("authorization", f"{key}, {key}")],
        [("authorization", f"{key} {key}")],
        [("authorization", f"{key}\t{key.removeprefix('Bearer ')}")],
    ]
    for headers in twice:
        answer = await callers.client.post("/graphql", json={"query": WHO}, headers=headers)
        assert (answer.status_code, codes(answer)) == (401, ["UNAUTHENTICATED"]), headers
    for elsewhere in ({"cookie": key}, {"x-api-key": key}, {"proxy-authorization": key}):
        assert (await callers.client.post("/graphql", json={"query": WHO}, headers=elsewhere)).status_code == 401
    parameters: dict[str, Any] = {"query": WHO, "access_token": key.removeprefix("Bearer ")}
    assert (await callers.client.get("/graphql", params=parameters)).status_code == 401
