"""Every setting, read once from the environment or `.env`, frozen, and handed on as arguments."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL

from wallet_gql.db.address import read_address
from wallet_gql.domain.shards import SHARD_COUNT_DEFAULT

TokenAlgorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""What people's tokens may be signed with: with a private key that the service does not know."""


class Settings(BaseSettings):
    """The service's configuration; `.env.example` says what each setting is for."""

    model_config = SettingsConfigDict(env_prefix="WALLET_", env_file=".env", frozen=True, extra="ignore")

    database_url: SecretStr | None = Field(None, validation_alias="DATABASE_URL")
    migration_database_url: SecretStr | None = None
    data_dir: Path | None = None
    postgres_version: Literal[16, 18] = 18
    mode: Literal["live", "test"] = "live"
    shard_count: int = Field(SHARD_COUNT_DEFAULT, ge=1, le=4096)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=64)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    access: Literal["open", "closed"] | None = None
    token_keys: str | None = None
    token_issuer: str | None = None
    token_audience: Annotated[tuple[str, ...], NoDecode] = ()
    token_algorithms: Annotated[tuple[TokenAlgorithm, ...], NoDecode] = ("RS256", "ES256", "EdDSA")
    token_leeway_seconds: int = Field(10, ge=0, le=300)
    token_owner_claim: str = Field("sub", min_length=1)
    token_scopes_claim: str = Field("scope", min_length=1)
    graphiql: bool | None = None
    introspection: bool | None = None
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    cors_headers: Annotated[tuple[str, ...], NoDecode] = (
        "authorization",
        "content-type",
        "x-request-id",
        "x-graphql-cost",
        "traceparent",
        "tracestate",
        "baggage",
        "apollographql-client-name",
        "apollographql-client-version",
    )

    rate_burst: int = Field(10_000, ge=1, le=1_000_000_000)
    rate_per_second: int = Field(1000, ge=1, le=1_000_000_000)
    rate_url: SecretStr | None = None

    trusted_documents: Annotated[tuple[Path, ...], NoDecode] = ()
    trusted_documents_only: bool = False

    body_bytes_max: int = Field(1024 * 1024, ge=1024)
    document_characters_max: int = Field(64 * 1024, ge=1024)
    document_tokens_max: int = Field(2000, ge=100)
    document_depth_max: int = Field(15, ge=1, le=100)
    document_aliases_max: int = Field(30, ge=0)
    document_root_mutations_max: int = Field(10, ge=1)
    document_root_queries_max: int = Field(20, ge=1)
    document_directives_max: int = Field(50, ge=0)
    document_operations_max: int = Field(50, ge=1)
    document_fragments_max: int = Field(50, ge=0)
    document_fields_max: int = Field(1500, ge=1)
    document_cost_max: int = Field(10_000, ge=1)

    pgbouncer: bool = False
    pool_size: int = Field(25, ge=10, le=1000)
    queue_size_max: int = Field(4096, ge=1, le=1_000_000)
    statement_timeout_seconds: float = Field(10, gt=0)
    lock_timeout_seconds: float = Field(5, gt=0)
    idle_in_transaction_timeout_seconds: float = Field(15, gt=0)
    connect_timeout_seconds: float = Field(5, gt=0)
    request_deadline_seconds: float = Field(15, gt=0)
    shutdown_timeout_seconds: int = Field(20, ge=1)
    connections_max: int = Field(1000, ge=1, le=1_000_000)
    keep_alive_seconds: float = Field(75, gt=0)
    header_timeout_seconds: float = Field(10, gt=0)
    body_timeout_seconds: float = Field(15, gt=0)

    @field_validator(
        "allowed_hosts",
        "cors_origins",
        "cors_headers",
        "token_audience",
        "token_algorithms",
        "trusted_documents",
        mode="before",
    )
    @classmethod
    def _split_list(cls, value: object) -> object:
        return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value

    @field_validator("postgres_version", mode="before")
    @classmethod
    def _read_number(cls, value: object) -> object:
        # The environment has texts only, and a Literal is compared, not converted.
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator(
        "data_dir", "access", "graphiql", "introspection", "token_keys", "token_issuer", "rate_url", mode="before"
    )
    @classmethod
    def _read_nothing(cls, value: object) -> object:
        # What is empty is not set; an empty path would be the folder that the command is run in.
        return None if value == "" else value

    @field_validator("database_url", "migration_database_url", mode="after")
    @classmethod
    def _check_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value():
            _to_url(value)
            return value
        return None

    @field_validator("rate_url", mode="after")
    @classmethod
    def _check_store(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.match(r"(redis|valkey)s?://.", value.get_secret_value()):
            raise ValueError("WALLET_RATE_URL is not the address of a Redis or Valkey: use redis://host:6379/0.")
        if value is not None and find_spec("redis") is None:
            raise ValueError("WALLET_RATE_URL needs a package that is not installed: pip install 'wallet-gql[redis]'.")
        return value

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if self.rate_per_second > self.rate_burst:
            raise ValueError("WALLET_RATE_PER_SECOND is more than WALLET_RATE_BURST: a budget would never be used up.")
        return self

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        if self.token_keys is None:
            return self
        if self.token_issuer is None or not self.token_audience:
            raise ValueError("WALLET_TOKEN_KEYS needs WALLET_TOKEN_ISSUER and WALLET_TOKEN_AUDIENCE: set all three.")
        if "://" in self.token_keys and not self.token_keys.startswith("https://"):
            raise ValueError("WALLET_TOKEN_KEYS is an address, but not an https one: use https://… or a file's path.")
        if not self.token_algorithms:
            raise ValueError("WALLET_TOKEN_ALGORITHMS is empty: name one at least, such as ES256, or leave it unset.")
        return self

    @property
    def is_open(self) -> bool:
        """Whether whoever sends no credentials may do anything; where nothing is said, nobody may."""
        return self.access == "open"

    @property
    def shows_graphiql(self) -> bool:
        """Whether browsers get GraphiQL: where access is open, if nothing is said."""
        return self.is_open if self.graphiql is None else self.graphiql

    @property
    def hides_schema(self) -> bool:
        """Whether errors say nothing of the schema but what a document names itself."""
        return not (self.is_open if self.introspection is None else self.introspection)

    def server_url(self) -> URL:
        """Return the address that the service connects to; raises LookupError where none is configured."""
        if self.database_url is None:
            raise LookupError("DATABASE_URL is not set")
        return _to_url(self.database_url)

    def owner_url(self) -> URL:
        """Return the address that migrations connect to: the tables' owner's."""
        return self.server_url() if self.migration_database_url is None else _to_url(self.migration_database_url)

    def server_role(self) -> str | None:
        """Return the role that the service connects as, where its address names one."""
        return self.server_url().username


def _to_url(value: SecretStr) -> URL:
    return read_address(value.get_secret_value())
