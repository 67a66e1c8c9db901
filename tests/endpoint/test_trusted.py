"""Documents that were registered before, in manifests as Relay and Apollo write them."""

import json
from collections.abc import AsyncIterator
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from identity import AUDIENCE, ISSUER, Identity, jwks
from watched import endpoint_of

from wallet_gql.endpoint.http import GraphQLEndpoint
from wallet_gql.endpoint.trusted import ManifestUnfit
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio

ASSETS = "query Assets { assets { code } }"
VIEWER = "query Viewer { viewer { ownerId } }"
SCALES = "query Scales { assets { scale } }"
RELAY = {md5(ASSETS.encode(), usedforsecurity=False).hexdigest(): ASSETS}
APOLLO_ID = sha256(VIEWER.encode()).hexdigest()
APOLLO = {
    "format": "apollo-persisted-query-manifest",
    "version": 1,
    "operations": [{"id": APOLLO_ID, "name": "Viewer", "type": "query", "body": VIEWER}],
}


@pytest.fixture
def identity() -> Identity:
    return Identity()


@pytest.fixture
def changes(tmp_path: Path, identity: Identity) -> dict[str, object]:
    for name, content in (("relay.json", RELAY), ("apollo.json", APOLLO)):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "jwks.json").write_bytes(jwks(identity.jwk()))
    return {
        "trusted_documents": (tmp_path / "relay.json", tmp_path / "apollo.json"),
        "token_keys": str(tmp_path / "jwks.json"), "token_issuer": ISSUER, "token_audience": (AUDIENCE,),
    }  # fmt: skip


@pytest.fixture
async def ledger(settings: Settings, changes: dict[str, object]) -> AsyncIterator[Ledger]:
    async with open_ledger(settings.model_copy(update=changes)) as ledger:
        yield ledger


@pytest.fixture
async def client(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    async with endpoint_of(ledger) as client:
        yield client


def named(text: str) -> str:
    return f"sha256:{sha256(text.encode()).hexdigest()}"


@pytest.mark.parametrize(
    ("id_", "field"),
    [(next(iter(RELAY)), "assets"), (named(ASSETS), "assets"), (APOLLO_ID, "viewer"), (named(VIEWER), "viewer")],
)
async def test_a_registered_document_is_run_by_its_id(client: httpx.AsyncClient, id_: str, field: str) -> None:
    posted = await client.post("/graphql", json={"documentId": id_})
    got = await client.get("/graphql", params={"documentId": id_}, headers={"accept": "text/html, application/json"})
    assert posted.json() == got.json()
    assert posted.json()["data"].keys() == {field}


async def test_apollo_s_client_names_one_by_its_hash(client: httpx.AsyncClient) -> None:
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": APOLLO_ID}}
    answer = await client.post("/graphql", json={"operationName": "Viewer", "extensions": extensions})
    assert answer.json() == {"data": {"viewer": {"ownerId": None}}}


async def ask(client: httpx.AsyncClient, code: str, **parameters: Any) -> httpx.Response:
    answer = await client.post("/graphql", json=parameters)
    assert [error["extensions"]["code"] for error in answer.json()["errors"]] == [code], answer.text
    assert "data" not in answer.json()
    return answer


async def test_an_id_of_no_document_is_not_found(client: httpx.AsyncClient) -> None:
    for id_ in (named(SCALES), "../../etc/passwd", "", "x" * 10_000):
        answer = await ask(client, "DOCUMENT_NOT_FOUND", documentId=id_)
        assert answer.status_code == 404
        assert len(answer.text) < 500


async def test_an_id_that_is_none_or_not_alone_is_told(client: httpx.AsyncClient) -> None:
    wrong: tuple[object, ...] = (5, [], {}, True)
    for id_ in wrong:
        assert (await ask(client, "BAD_USER_INPUT", documentId=id_)).status_code == 400
    assert (await ask(client, "BAD_USER_INPUT", documentId=named(ASSETS), query=ASSETS)).status_code == 400


async def test_a_hash_that_is_not_registered_is_told_as_ever(client: httpx.AsyncClient) -> None:
    wrong: tuple[object, ...] = (sha256(b"").hexdigest(), 5, None, [])
    for hash_ in wrong:
        extensions = {"persistedQuery": {"version": 1, "sha256Hash": hash_}}
        answer = await client.post("/graphql", json={"extensions": extensions})
        assert "errors" in answer.json()


async def test_a_registered_document_is_prepared_once_at_the_start(ledger: Ledger) -> None:
    endpoint = GraphQLEndpoint(ledger.settings)
    prepared: list[str] = []
    endpoint.documents.prepare = prepared.append  # type: ignore[assignment, method-assign] # none may be
    assert (await endpoint.documents.find(ASSETS)).operation("Assets").size.cost > 0
    assert prepared == []


async def test_if_so_set_people_run_nothing_else(
    settings: Settings, changes: dict[str, object], identity: Identity
) -> None:
    only = settings.model_copy(update=changes | {"trusted_documents_only": True})
    async with open_ledger(only) as ledger, endpoint_of(ledger) as client:
        person = {"authorization": f"Bearer {identity.token('player-1', 'schema:read')}"}

        async def asked(**parameters: object) -> httpx.Response:
            return await client.post("/graphql", json=parameters, headers=person)

        for own in (SCALES, f"{ASSETS} ", "{ __schema { types { name } } }", "rubbish", "mutation { x }"):
            answer = await asked(query=own)
            assert answer.status_code == 403
            assert answer.json()["errors"][0]["extensions"]["code"] == "DOCUMENT_NOT_TRUSTED"
        assert (await asked(documentId=named(VIEWER))).json() == {"data": {"viewer": {"ownerId": "player-1"}}}
        assert (await asked(query=VIEWER)).json() == {"data": {"viewer": {"ownerId": "player-1"}}}
        # Machines go on.
        assert "data" in (await client.post("/graphql", json={"query": SCALES})).json()


async def test_a_registered_mutation_is_not_for_get(settings: Settings, tmp_path: Path) -> None:
    text = 'mutation Open { openWallet(input: {ownerId: "by-get"}) { __typename } }'
    (tmp_path / "manifest.json").write_text(json.dumps({"open": text}))
    changes = {"trusted_documents": (tmp_path / "manifest.json",)}
    async with open_ledger(settings.model_copy(update=changes)) as ledger, endpoint_of(ledger) as client:
        answer = await client.get("/graphql", params={"documentId": "open"})
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        found = await client.post("/graphql", json={"query": '{ wallet(ownerId: "by-get") { id } }'})
        assert found.json() == {"data": {"wallet": None}}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("rubbish", "is not JSON"),
        ("[]", "neither a manifest of Relay nor one of Apollo"),
        ("5", "neither a manifest of Relay nor one of Apollo"),
        ('{"id": 5}', "neither a manifest of Relay nor one of Apollo"),
        ('{"format": "apollo-persisted-query-manifest"}', "neither a manifest of Relay nor one of Apollo"),
        ('{"format": "apollo-persisted-query-manifest", "operations": [5]}', "neither a manifest of Relay nor one of"),
        ('{"": "{ assets { code } }"}', "an id is empty"),
        ('{"one": "{ walet }"}', "The document one of a manifest cannot be executed here: Cannot query field"),
        ('{"one": "{"}', "The document one of a manifest cannot be executed here"),
        (json.dumps({named(ASSETS): VIEWER, "two": ASSETS}), "names two documents"),
        ("[" * 100_000, "is not JSON"),
        ('{"one": "{ \\ud800 }"}', "is not Unicode"),
    ],
)
async def test_a_manifest_that_is_unfit_stops_the_start(
    settings: Settings, tmp_path: Path, content: str, fault: str
) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(content)
    with pytest.raises(ManifestUnfit, match=fault):
        GraphQLEndpoint(settings.model_copy(update={"trusted_documents": (file,)}))


async def test_a_manifest_that_is_missing_stops_the_start(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ManifestUnfit, match="cannot be read: No such file or directory"):
        GraphQLEndpoint(settings.model_copy(update={"trusted_documents": (tmp_path / "missing",)}))
