import asyncpg
import pytest
from pydantic import SecretStr, ValidationError

from wallet_gql.db.address import divide, read_address
from wallet_gql.db.engine import connect, create_engine
from wallet_gql.settings import Settings

AT = "postgresql://user:sesame@host/wallet"


@pytest.fixture(autouse=True)
def nobody_is_trusted_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("postgresql://u:p@h/db", [("h", None)]),
        ("postgresql://u:p@h:5433/db", [("h", 5433)]),
        ("postgresql://u:p@/db?host=h&port=5433", [("h", 5433)]),
        ("postgresql://u:p@h/db?port=5433", [("h", 5433)]),
        ("postgresql://u:p@[::1]:5433/db", [("::1", 5433)]),
        ("postgresql://u:p@/db?host=::1", [("::1", None)]),
        ("postgresql:///db?host=/run/postgresql", [("/run/postgresql", 5432)]),
        ("postgresql://u:p@h1:5433,h2:5434/db?target_session_attrs=read-write", [("h1", 5433), ("h2", 5434)]),
        ("postgresql://u:p%40@h1,h2:5434", [("h1", 5432), ("h2", 5434)]),
        ("postgresql://[::1]:5433,[::2]/db", [("::1", 5433), ("::2", 5432)]),
        ("postgresql://u:p@/db?host=h1:5433&host=h2:5434", [("h1", 5433), ("h2", 5434)]),
        ("postgresql://u:p@/db?host=h1,h2&port=5433", [("h1", 5433), ("h2", 5433)]),
        ("postgresql://u:p@/db?host=h1,h2&port=5433,5434", [("h1", 5433), ("h2", 5434)]),
        ("postgresql://u:p@/db?host=[::1]:5433,h2", [("::1", 5433), ("h2", 5432)]),
    ],
)
def test_hosts_are_read_in_every_spelling(text: str, hosts: list[tuple[str, int | None]]) -> None:
    url = read_address(text)

    assert list(divide(url).hosts) == hosts
    # What is printed for other programs says the same.
    assert divide(read_address(url.render_as_string(hide_password=False))).hosts == divide(url).hosts


def test_login_and_database_may_be_parameters() -> None:
    url = read_address("postgresql://h/?user=u&password=p%26&dbname=db")

    assert (url.username, url.password, url.database, dict(url.query)) == ("u", "p&", "db", {})


def test_parameters_reach_the_driver() -> None:
    address = divide(
        read_address(
            f"{AT}?sslmode=require&sslnegotiation=direct&ssl_min_protocol_version=TLSv1.3&sslpassword=a%26b"
            "&application_name=shop&options=-c%20geqo%3Doff&connect_timeout=7&passfile=/pass"
            "&keepalives_idle=40&keepalives_interval=4&keepalives_count=9&tcp_user_timeout=9000"
            "&target_session_attrs=read-write"
        )
    )

    assert address.arguments["dsn"] == (
        "postgresql://?sslmode=require&sslnegotiation=direct&ssl_min_protocol_version=TLSv1.3&sslpassword=a%26b"
    )
    assert address.arguments["passfile"] == "/pass"
    assert address.server_settings == {"application_name": "shop", "options": "-c geqo=off"}
    assert (address.connect_timeout_seconds, address.user_timeout_milliseconds) == (7, 9000)
    assert (address.is_kept_alive, address.keepalives, address.must_write) == (True, (40, 4, 9), True)


@pytest.mark.parametrize(
    "parameter",
    [
        "ssl=require",
        "ssl=true",
        "sslmode=prefer",
        "sslmode=verify-full&sslrootcert=system",
        "fallback_application_name=shop",
        "keepalives=0",
        "channel_binding=prefer",
        "client_encoding=UTF8",
        "gssencmode=disable",
        "load_balance_hosts=disable",
        "sslsni=1",
        "sslcompression=0",
        "sslcertmode=allow",
        "target_session_attrs=any",
        "target_session_attrs=primary",
        "replication=false",
    ],
)
def test_parameter_is_taken(parameter: str) -> None:
    divide(read_address(f"{AT}?{parameter}"))


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ("sslmode=verify", "asks for sslmode=verify: use disable or allow or prefer or require or verify-ca"),
        ("sslmode=verify-full", "asks for sslmode=verify-full without sslrootcert"),
        ("sslmode=verify-ca", "asks for sslmode=verify-ca without sslrootcert"),
        ("sslmode=require&sslrootcert=system", "goes with sslmode=verify-full"),
        ("sslrootcert=/nowhere/ca.pem", "names /nowhere/ca.pem as sslrootcert: there is no such file"),
        ("sslcert=/nowhere/me.pem", "names /nowhere/me.pem as sslcert"),
        ("sslkey=/nowhere/key.pem", "names /nowhere/key.pem as sslkey"),
        ("sslcrl=/nowhere/crl.pem", "names /nowhere/crl.pem as sslcrl"),
        ("ssl_min_protocol_version=SSLv3", "asks for ssl_min_protocol_version=SSLv3"),
        ("connect_timeout=0", "asks for connect_timeout=0: use a whole number of at least 1"),
        ("connect_timeout=soon", "asks for connect_timeout=soon"),
        ("keepalives=yes", "asks for keepalives=yes"),
        ("tcp_user_timeout=-1", "asks for tcp_user_timeout=-1"),
        ("target_session_attrs=standby", "the service needs a server that it can write to"),
        ("target_session_attrs=prefer-standby", "the service needs a server that it can write to"),
        ("channel_binding=require", "sslmode=verify-full proves the server's identity instead"),
        ("client_encoding=LATIN1", "asks for client_encoding=LATIN1"),
        ("gssencmode=require", "asks for gssencmode=require"),
        ("load_balance_hosts=random", "asks for load_balance_hosts=random"),
        ("replication=database", "asks for replication=database"),
        ("hostaddr=10.0.0.1", "has the parameter hostaddr, which is not supported: name the host"),
        ("service=wallet", "has the parameter service, which is not supported"),
        ("require_auth=scram-sha-256", "has the parameter require_auth, which is not supported"),
        ("krbsrvname=postgres", "has the parameter krbsrvname, which is not supported"),
        ("requirepeer=postgres", "has the parameter requirepeer, which is not supported"),
        ("sslcrldir=/etc", "has the parameter sslcrldir, which is not supported: name one file by sslcrl"),
        ("pgbouncer=true", "set WALLET_PGBOUNCER=true"),
        ("prepared_statement_cache_size=0", "set WALLET_PGBOUNCER=true"),
        ("statement_timeout=5", "a setting of the server goes into options=-c name=value"),
        ("sslmode=require&sslmode=disable", "names sslmode 2 times"),
        ("host=h1,h2,h3&port=1,2", "names 3 hosts and 2 ports"),
        ("host=h1:x", "names the host 'h1:x'"),
        ("host=h1:70000", "names port 70000: use 1 to 65535"),
        ("port=x", "names port 'x'"),
    ],
)
def test_parameter_that_cannot_be_had_is_named(parameter: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{AT}?{parameter}")

    with pytest.raises(ValidationError) as caught:
        Settings(_env_file=None)

    (problem,) = caught.value.errors()
    assert told in problem["msg"]
    assert "sesame" not in problem["msg"]


async def test_parameters_reach_the_session(settings: Settings) -> None:
    url = settings.server_url().set(
        query={
            "application_name": "shop",
            "options": "-c geqo_threshold=17",
            "connect_timeout": "7",
            "sslmode": "prefer",
        }
    )
    own = settings.model_copy(update={"database_url": SecretStr(url.render_as_string(hide_password=False))})
    engine = create_engine(own)
    async with connect(engine) as connection:
        assert await connection.fetchval("SHOW application_name") == "shop"
        assert await connection.fetchval("SHOW geqo_threshold") == "17"
        assert await connection.fetchval("SHOW lock_timeout") == "5s"
    await engine.dispose()


async def test_address_that_is_printed_is_one_for_other_programs(settings: Settings) -> None:
    url = read_address(settings.server_url().render_as_string(hide_password=False) + "?application_name=shop")

    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
    assert await connection.fetchval("SHOW application_name") == "shop"
    await connection.close()
