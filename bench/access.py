"""Spends of callers with an API key, and of players with tokens of their own, beside spends without credentials.

One server answers all three, for access is open: who sends a key or a token is known, charged and bounded by it.
"""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx
import jwt
import servers
from books import Database, owner_ids
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr
from session import Scenario, Session
from throughput import funded

from wallet_gql.db.engine import close, create_engine
from wallet_gql.operations.api_keys import POINTS_MAX, KeyInput, create_key

ISSUER: Final = "https://id.example.com"
AUDIENCE: Final = "wallet"
PLAYERS: Final = 1000

ROUNDS: Final = 20

# Short windows, many of them: what disturbs a machine comes and goes.
WITHOUT: Final = Scenario(
    "spends without credentials", "spend", window_seconds=2, tail_seconds=0.3, options={"wallets": PLAYERS}
)
KEY: Final = replace(WITHOUT, name="spends with an API key")
TOKEN: Final = replace(WITHOUT, name="spends of 1,000 players, each with a token (ES256)")


def access(session: Session) -> None:
    """Measure what a key and what tokens cost, beside the same without, in turn."""
    database = funded(session, "access", 64)
    folder = session.cluster.scratch
    private = generate_private_key(SECP256R1())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "provider.pem").write_bytes(public)
    key = _write(folder / "key", [asyncio.run(_make_key(database))])
    tokens = _write(folder / "tokens", [_token(private, owner) for owner in owner_ids(PLAYERS)])
    environment = database.environment() | {
        "WALLET_TOKEN_KEYS": str(folder / "provider.pem"),
        "WALLET_TOKEN_ISSUER": ISSUER,
        "WALLET_TOKEN_AUDIENCE": AUDIENCE,
        "WALLET_RATE_BURST": str(POINTS_MAX),
        "WALLET_RATE_PER_SECOND": str(POINTS_MAX),
    }
    with servers.service(folder, environment) as ours:
        sides = [
            WITHOUT,
            replace(KEY, options=KEY.options | {"credentials": key}),
            replace(TOKEN, options=TOKEN.options | {"credentials": tokens}),
        ]
        for number in range(1, 2 if session.quick else ROUNDS + 1):
            if number % 4 == 1:
                _verify_once(ours.url, Path(tokens))
            for scenario in sides if number % 2 else reversed(sides):
                session.measure(number, scenario, ours, database)
    session.prove(database)


def _verify_once(url: str, tokens: Path) -> None:
    """Have each token verified: a service that is busy all the time does so once a minute, not once in a window."""
    with httpx.Client() as client:
        for token in tokens.read_text().split():
            headers = {"authorization": f"Bearer {token}"}
            client.post(f"{url}/graphql", json={"query": "{ __typename }"}, headers=headers).raise_for_status()


def _write(file: Path, lines: list[str]) -> str:
    file.write_text("".join(f"{line}\n" for line in lines))
    return str(file)


def _token(private: EllipticCurvePrivateKey, owner: str) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": owner, "scope": "wallet:spend", "exp": int(time.time()) + 86_400}
    return jwt.encode(claims, private, "ES256")


async def _make_key(database: Database) -> str:
    url = SecretStr(database.environment()["WALLET_MIGRATION_DATABASE_URL"])
    settings = database.settings().model_copy(update={"migration_database_url": url})
    engine = create_engine(settings, settings.owner_url())
    try:
        asked = KeyInput("bench", ["wallet:spend"], rate_burst=POINTS_MAX, rate_per_second=POINTS_MAX)
        return await create_key(engine, settings.mode, asked)
    finally:
        await close(engine)
