"""Who asks, and which API keys there are."""

from datetime import datetime
from enum import Enum
from typing import Self

import strawberry

from wallet_gql.domain.access import AskedBy, Caller, Scope
from wallet_gql.domain.api_keys import ApiKey as StoredKey
from wallet_gql.domain.postings import TransactionName
from wallet_gql.graphql.context import Info
from wallet_gql.ledger.reads import NOTHING_NOTED


@strawberry.enum(description="What kind of caller asks. Kinds are added: keep a default branch.")
class ActorKind(Enum):
    """What kind of caller asks."""

    API_KEY = strawberry.enum_value("API_KEY", description="A machine, by an API key.")
    PERSON = strawberry.enum_value("PERSON", description="A player, by a token of the platform's identity provider.")
    SYSTEM = strawberry.enum_value("SYSTEM", description="The service itself.")
    OPERATOR = strawberry.enum_value("OPERATOR", description="Whoever operates it, and anybody where access is open.")


@strawberry.type(description="Who asks, or asked.")
class Actor:
    """Who asks, or asked."""

    kind: ActorKind = strawberry.field(description="What kind of caller it is.")
    name: str = strawberry.field(description="The key's name, or the person's owner id.")

    @classmethod
    def of(cls, caller: Caller) -> Self:
        """Show who a caller is."""
        return cls(kind=ActorKind[caller.kind.name], name=caller.name)


async def read_asked_by(info: Info, event: TransactionName) -> AskedBy:
    """Read who asked for a transaction, or an event of a hold or a wallet; others than auditors see their own."""
    asked_by = (await info.context.ledger.reads.notes.load(event)).asked_by
    caller = info.context.caller
    is_own = (asked_by.kind, asked_by.name) == (caller.kind, caller.name)
    return asked_by if is_own or Scope.AUDIT in caller.scopes else NOTHING_NOTED.asked_by


async def read_actor(info: Info, event: TransactionName) -> Actor | None:
    """Read who asked for it; None where that is not known, or not for the caller to know."""
    kind, name, _ = await read_asked_by(info, event)
    return None if kind is None or name is None else Actor(kind=ActorKind[kind.name], name=name)


@strawberry.type(description="Whoever sends this request.")
class Viewer:
    """Whoever sends this request."""

    actor: Actor = strawberry.field(description="Who it is.")
    scopes: list[str] = strawberry.field(description="What it may do, in alphabetical order.")
    owner_id: str | None = strawberry.field(description="A person's own owner id; null for whoever is none.")
    owner_prefix: str | None = strawberry.field(
        description="What the ids of the owners begin with that a key reaches; null where it is not limited so."
    )
    test_mode: bool = strawberry.field(description="Whether the service is in test mode.")

    @strawberry.field(description="The service's time; the test clock's in test mode.")
    async def now(self, info: Info) -> datetime:
        """Read the clock."""
        return await info.context.ledger.reads.clock.load(None)


@strawberry.enum(description="Whether an API key lets its holder in. States are added: keep a default branch.")
class ApiKeyState(Enum):
    """Whether an API key lets its holder in."""

    ACTIVE = strawberry.enum_value("ACTIVE", description="It does.")
    REVOKED = strawberry.enum_value("REVOKED", description="An operator ended it.")
    EXPIRED = strawberry.enum_value("EXPIRED", description="It has come to its end.")


@strawberry.type(description="An API key, without its secret, which nobody knows but its holder.")
class ApiKey:
    """An API key."""

    key_id: str = strawberry.field(description="The eight characters in the key that name it.")
    name: str = strawberry.field(description="Who holds it.")
    state: ApiKeyState = strawberry.field(description="Whether it lets its holder in.")
    test_mode: bool = strawberry.field(description="Whether it is for services in test mode.")
    scopes: list[str] = strawberry.field(description="What its holder may do, in alphabetical order.")
    owner_prefix: str | None = strawberry.field(
        description="What the ids of the owners begin with that it reaches; null where it is not limited so."
    )
    created_at: datetime = strawberry.field(description="When it was made.")
    expires_at: datetime | None = strawberry.field(description="When it ends; null where it does not by itself.")
    last_used_at: datetime | None = strawberry.field(description="When it was used last, to about a minute.")

    @classmethod
    def of(cls, key: StoredKey) -> Self:
        """Show a key."""
        return cls(
            key_id=key.id,
            name=key.name,
            state=ApiKeyState[key.state.upper()],
            test_mode=key.mode == "test",
            scopes=sorted(key.rights.scopes),
            owner_prefix=key.rights.owner_prefix or None,
            created_at=key.created_at,
            expires_at=key.expires_at,
            last_used_at=key.last_used_at,
        )


@strawberry.type
class AccessQueries:
    """What can be asked about access."""

    @strawberry.field(description="Whoever sends this request, and what it may do.")
    async def viewer(self, info: Info) -> Viewer | None:
        """Show who asks."""
        caller = info.context.caller
        return Viewer(
            actor=Actor.of(caller),
            scopes=sorted(caller.scopes),
            owner_id=caller.owner_id,
            owner_prefix=caller.owner_prefix or None,
            test_mode=info.context.ledger.settings.mode == "test",
        )

    @strawberry.field(description="API keys, the newest first: those that reach no more owners than the caller.")
    async def api_keys(self, info: Info) -> list[ApiKey] | None:
        """Read all keys."""
        own = info.context.caller.owner_prefix
        keys = await info.context.ledger.reads.api_keys.load(None)
        return [ApiKey.of(key) for key in keys if key.rights.owner_prefix.startswith(own)]
