import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from wallet_gql.settings import Settings

EXAMPLE = Path(__file__).parents[1] / ".env.example"

LISTED = dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def name_of(field: str) -> str:
    alias = Settings.model_fields[field].validation_alias
    return f"WALLET_{field.upper()}" if alias is None else str(alias)


NAMES = {name_of(field): field for field in Settings.model_fields}


def test_example_lists_every_setting_and_nothing_else() -> None:
    assert LISTED.keys() == NAMES.keys()


def test_example_lists_each_setting_once() -> None:
    assert len(re.findall(r"^#? ?[A-Z][A-Z0-9_]*=", EXAMPLE.read_text(), re.MULTILINE)) == len(LISTED)


@pytest.mark.parametrize("name", NAMES)
def test_example_shows_the_default(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests have fewer shards than there are by default.
    monkeypatch.delenv("WALLET_SHARD_COUNT", raising=False)
    monkeypatch.delenv("WALLET_POSTGRES_VERSION", raising=False)
    uncommented = tmp_path / ".env"
    if LISTED[name]:
        uncommented.write_text(f"{name}={LISTED[name]}\n")

    assert getattr(Settings(_env_file=uncommented), NAMES[name]) == getattr(Settings(_env_file=None), NAMES[name])
    assert LISTED[name] or not getattr(Settings(_env_file=None), NAMES[name])


def test_example_as_it_stands_changes_nothing() -> None:
    assert Settings(_env_file=EXAMPLE) == Settings(_env_file=None)


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("WALLET_PORT=9001\nWALLET_HOST=127.0.0.2\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("WALLET_PORT", "9002")

    settings = Settings(_env_file=file)

    assert (settings.port, settings.host) == (9002, "127.0.0.2")


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://a.example", ("https://a.example",)),
        (" https://a.example , https://b.example,", ("https://a.example", "https://b.example")),
    ],
)
def test_lists_are_divided_by_commas(text: str, members: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALLOWED_HOSTS", "CORS_HEADERS", "CORS_ORIGINS"):
        monkeypatch.setenv(f"WALLET_{name}", text)

    settings = Settings(_env_file=None)
    assert settings.allowed_hosts == settings.cors_headers == settings.cors_origins == members


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_address_is_read_in_its_usual_spellings(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://user:p%40ss@host:5433/wallet")

    url = Settings(_env_file=None).server_url()

    assert url.drivername == "postgresql+asyncpg"
    assert (url.username, url.password, url.host, url.port, url.database) == ("user", "p@ss", "host", 5433, "wallet")


def test_migrations_use_the_servers_address_unless_they_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://server@host/wallet")
    assert Settings(_env_file=None).owner_url().username == "server"
    monkeypatch.setenv("WALLET_MIGRATION_DATABASE_URL", "")
    assert Settings(_env_file=None).owner_url().username == "server"

    monkeypatch.setenv("WALLET_MIGRATION_DATABASE_URL", "postgresql://owner@host/wallet")

    settings = Settings(_env_file=None)
    assert (settings.owner_url().username, settings.server_role()) == ("owner", "server")


def test_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")

    settings = Settings(_env_file=None)

    assert settings.database_url is None
    with pytest.raises(LookupError, match="DATABASE_URL"):
        settings.server_url()


def test_empty_folder_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALLET_DATA_DIR", "")

    assert Settings(_env_file=None).data_dir is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "mysql://user:sesame@host/wallet"),
        ("DATABASE_URL", "postgresql://user:sesame@host:99999/wallet"),
        ("WALLET_MIGRATION_DATABASE_URL", "sqlite:///wallet"),
        ("WALLET_PORT", "65536"),
        ("WALLET_PORT", "-1"),
        ("WALLET_WORKERS", "0"),
        ("WALLET_SHARD_COUNT", "0"),
        ("WALLET_SHARD_COUNT", "4097"),
        ("WALLET_POSTGRES_VERSION", "17"),
        ("WALLET_LOG_LEVEL", "loud"),
        ("WALLET_LOG_FORMAT", "xml"),
        ("WALLET_GRAPHIQL", "perhaps"),
        ("WALLET_STATEMENT_TIMEOUT_SECONDS", "0"),
        ("WALLET_LOCK_TIMEOUT_SECONDS", "-1"),
        ("WALLET_REQUEST_DEADLINE_SECONDS", "soon"),
        ("WALLET_CONNECTIONS_MAX", "0"),
        ("WALLET_KEEP_ALIVE_SECONDS", "0"),
        ("WALLET_HEADER_TIMEOUT_SECONDS", "-1"),
    ],
)
def test_value_that_makes_no_sense_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError) as caught:
        Settings(_env_file=None)

    (problem,) = caught.value.errors()
    assert problem["loc"] in {(name,), (NAMES[name],)}
    assert "sesame" not in problem["msg"]


def test_settings_are_frozen_and_hide_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:sesame@host/wallet")
    settings = Settings(_env_file=None)

    assert "sesame" not in repr(settings)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]
