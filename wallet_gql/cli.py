"""The command `wallet-gql`: run the service, and what an operator does around it.

Each command imports what only it needs: the API's schema alone takes a second to make, and only `serve` and
`export-schema` have a use for it.
"""

import asyncio
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar
from uuid import uuid4

import typer
from rich.console import Console
from rich.markup import escape

from wallet_gql.domain.access import COMMAND_LINE, Scope
from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.errors import BadUserInput, Fault
from wallet_gql.domain.limits import (
    COUNT_MAX,
    LIMITS_MAX,
    CalendarUnit,
    Enforcement,
    LimitFlow,
    LimitsSet,
    Rule,
    TooManyLimits,
    Window,
)
from wallet_gql.domain.money import parse_decimal
from wallet_gql.domain.postings import AmountInvalid, AssetMissing, WalletMissing
from wallet_gql.embedded.launcher import (
    EmbeddedError,
    EmbeddedPostgres,
    attach_or_start,
    default_data_dir,
    remove,
    start,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from wallet_gql.operations.limits import LimitOutcome
    from wallet_gql.operations.opening import Ledger
    from wallet_gql.operations.proof import Proof
    from wallet_gql.settings import Settings

Result = TypeVar("Result")

app = typer.Typer(
    help="A double-entry wallet service for virtual credits: GraphQL over PostgreSQL.\n\n"
    "It uses the database that DATABASE_URL names; without one it starts a PostgreSQL of its own, with its data in"
    " WALLET_DATA_DIR. Every setting is in .env.example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="API keys: what machines say who they are with.", no_args_is_help=True)
app.add_typer(keys, name="api-key")
limits = typer.Typer(help="Limits: what wallets may hold, and move in a window of time.", no_args_is_help=True)
app.add_typer(limits, name="limit")
_errors = Console(stderr=True, soft_wrap=True)

_REFUSED = {"28000", "28P01", "3D000", "42501"}


def main() -> None:
    """Run the command; what an operator can fix is told in one line, without a stack trace."""
    # So that every `finally` runs: the default would end the process at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except Exception as error:
        status = _explain(error)
        if status is None:
            raise
        raise SystemExit(status) from None


def _explain(error: Exception) -> int | None:
    """Tell what an operator can fix, and return the exit code for it; None for what nobody foresaw."""
    if isinstance(error, EmbeddedError | Fault):
        return _tell(str(error))
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        for problem in error.errors():
            message = escape(problem["msg"].removeprefix("Value error, "))
            _errors.print(f"[red]Setting {_setting_name(problem['loc'])}[/]: {message}", highlight=False)
        return 2
    from wallet_gql.db.migrations import MigratorBusy, UnfitDatabase
    from wallet_gql.operations.unit_of_work import is_away

    if isinstance(error, MigratorBusy | UnfitDatabase):
        return _tell(str(error))
    if (refusal := _refusal(error)) is not None:
        return _tell(
            f"The database refuses: {refusal}. Correct DATABASE_URL; for migrate, WALLET_MIGRATION_DATABASE_URL."
        )
    if is_away(error):
        return _tell(f"The database cannot be reached: {error}. Is it running, and is DATABASE_URL right?")
    return None


def _tell(message: str) -> int:
    _errors.print("[red]Error:[/]", escape(message), highlight=False)
    return 1


def _refusal(error: Exception) -> object | None:
    """Return what the database said to a wrong password, role or database, or to a role without rights."""
    refusal = getattr(error, "orig", error)
    return refusal if getattr(refusal, "sqlstate", None) in _REFUSED else None


def _fail(message: str) -> NoReturn:
    raise SystemExit(_tell(message))


def _setting_name(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "?"
    return name if name.isupper() else f"WALLET_{name.upper()}"


@contextmanager
def _database(*, attach: bool = True) -> Iterator["Settings"]:
    """Read the settings and, where they name no database, run the embedded one until the block ends.

    With `attach`, an embedded server that another command runs on the same folder is used.
    """
    from wallet_gql import logs
    from wallet_gql.settings import Settings

    settings = Settings()
    logs.configure(settings)
    if settings.database_url is not None:
        yield settings
        return
    run = attach_or_start if attach else start
    with run(settings.data_dir or default_data_dir(), version=settings.postgres_version) as server:
        yield _embedded_settings(settings, server)


def _embedded_settings(settings: "Settings", server: EmbeddedPostgres) -> "Settings":
    from pydantic import SecretStr

    return settings.model_copy(
        update={
            "database_url": SecretStr(server.server_url),
            "migration_database_url": SecretStr(server.owner_url),
            "data_dir": server.data_dir,
        }
    )


def _migrate(settings: "Settings") -> None:
    from wallet_gql.db import migrations

    migrations.upgrade(settings.owner_url(), settings.server_role())


def _in_ledger(settings: "Settings", work: Callable[["Ledger"], Coroutine[Any, Any, Result]]) -> Result:
    from wallet_gql.operations.opening import open_ledger

    async def run() -> Result:
        async with open_ledger(settings) as ledger:
            return await work(ledger)

    return asyncio.run(run())


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on. Default: WALLET_HOST, 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port to listen on. Default: WALLET_PORT, 8000.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Worker processes. Default: WALLET_WORKERS, 1.")
    ] = None,
    demo_data: Annotated[bool, typer.Option("--demo", help="Load the demo data first.")] = False,
) -> None:
    """Serve the API until stopped; requests in flight are finished first."""
    from wallet_gql.hosts import is_loopback
    from wallet_gql.serving import CannotListen, listen, run
    from wallet_gql.settings import Settings

    chosen = {"host": host, "port": port, "workers": workers}
    given = Settings().model_copy(update={name: value for name, value in chosen.items() if value is not None})
    try:
        listener = listen(given.host, given.port)
    except CannotListen as error:
        _fail(str(error))
    is_embedded = given.database_url is None
    with _database(attach=False) as found:
        settings = found.model_copy(update={name: getattr(given, name) for name in chosen})
        if settings.access is None:
            is_private = is_embedded and is_loopback(settings.host)
            settings = settings.model_copy(update={"access": "open" if is_private else "closed"})
        if settings.trusted_documents:
            # What is unfit is told here, and not by each worker.
            from wallet_gql.endpoint.http import GraphQLEndpoint

            GraphQLEndpoint(settings)
        if is_embedded:
            _migrate(settings)
        _look(settings, demo_data=demo_data)

        def announce() -> None:
            _announce(settings, listener.getsockname()[1], is_embedded=is_embedded, is_demo=demo_data)

        run(settings, listener, announce)


def _look(settings: "Settings", *, demo_data: bool) -> None:
    """Open the ledger once, so that what waiting cannot cure is told before a server starts.

    A database that is away is waited for by the server, which answers meanwhile; here only to load the demo data.
    """
    from wallet_gql.operations.waiting import can_pass

    told = ""
    while True:
        try:
            _in_ledger(settings, partial(_first_look, demo_data=demo_data))
        except Exception as error:
            # A password that is wrong from the start is seldom right later, and a new start reads a new one.
            if not can_pass(error) or _refusal(error) is not None:
                raise
            if str(error) != told:
                told = str(error)
                _errors.print("[yellow]Waiting for the database:[/]", escape(told), highlight=False)
            if demo_data:
                time.sleep(1)
                continue
        return


async def _first_look(ledger: "Ledger", *, demo_data: bool) -> None:
    """Load the demo data, and refuse to serve nobody: raises `NobodyMayAsk`."""
    from wallet_gql.operations import demo
    from wallet_gql.operations.api_keys import NobodyMayAsk

    if demo_data:
        await demo.seed(ledger)
    if not ledger.settings.is_open and ledger.callers.is_nobody:
        raise NobodyMayAsk(
            "Access is closed, and there is neither an API key nor an identity provider, so that nobody could ask"
            " anything. Make a key with wallet-gql api-key create, set WALLET_TOKEN_KEYS for people's tokens, or let"
            " everybody who reaches the port do anything with WALLET_ACCESS=open."
        )


def _announce(settings: "Settings", port: int, *, is_embedded: bool, is_demo: bool) -> None:
    """Say where the API is and what to paste."""
    from wallet_gql.hosts import is_loopback

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}/graphql"
    out = Console(highlight=False, soft_wrap=True)
    if not is_loopback(settings.host):
        if settings.is_open:
            _errors.print(
                f"[bold red]WARNING: listening on {settings.host} with WALLET_ACCESS=open: anyone who can reach this"
                " port can move credits.[/] Put it behind a gateway that authenticates callers, or make API keys."
            )
        if not settings.allowed_hosts:
            _errors.print(
                "Only requests whose Host header is an IP address or a name without a dot are answered: list other"
                " names in WALLET_ALLOWED_HOSTS."
            )
    out.print(
        f"Serving [bold]{escape(url)}[/]" + (" - open it in a browser for GraphiQL" if settings.shows_graphiql else "")
    )
    if settings.is_open and is_loopback(settings.host):
        out.print(
            "Access is open: whoever reaches this port needs no credentials. docs/access.md says how to close it."
        )
    if is_demo:
        # It only reads, so that the README's answers hold whether it was pasted or not.
        query = '{ balance(ownerId: \\"demo-alice\\") { amount } }'
        request = f"-H 'content-type: application/json' -d '{{\"query\": \"{query}\"}}'"
        out.print("Paste this to see what the player demo-alice has:\n")
        out.print(f"curl -sSw '\\n' {shlex.quote(url)} {request}\n", markup=False)
        out.print('Next: "A first conversation" in README.md. Every operation and its errors are in docs/api.md.')
    if is_embedded:
        data = f"Data: {settings.data_dir} (embedded PostgreSQL {settings.postgres_version})."
        out.print(f"{data} Ctrl-C stops the server; make reset removes the data.\n", markup=False)


@app.command()
def migrate() -> None:
    """Bring the database's schema to this version, and give the serving role its rights."""
    from wallet_gql.db import migrations

    with _database() as settings:
        _migrate(settings)
        typer.echo(f"The schema is at {migrations.head()}.")


@app.command()
def seed() -> None:
    """Load the demo data: three assets, two players. Doing it again changes nothing."""
    from wallet_gql.operations import demo
    from wallet_gql.settings import Settings

    with _database() as settings:
        if settings.database_url is not None and Settings().database_url is None:
            _migrate(settings)
        _in_ledger(settings, demo.seed)
        typer.echo("Demo data is loaded: " + ", ".join(owner_id for owner_id, _, _ in demo.OWNERS) + ".")


@app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
) -> None:
    """Remove the data of the embedded PostgreSQL, which must be stopped. A database of yours is never touched."""
    from wallet_gql.settings import Settings

    settings = Settings()
    if settings.database_url is not None:
        _fail(
            "DATABASE_URL is set, and reset only removes the data of the embedded PostgreSQL. Nothing was removed."
            " Unset DATABASE_URL (see .env, too) to remove the embedded data."
        )
    data_dir = settings.data_dir or default_data_dir()
    question = f"Remove every wallet and transaction in {data_dir}?"
    if not remove(data_dir, lambda: yes or typer.confirm(question, abort=True)):
        typer.echo(f"There is nothing to remove: {data_dir} has no embedded database.")
        return
    typer.echo(f"Removed the embedded database in {data_dir}. The next `make run` starts with fresh demo data.")


@app.command("add-asset")
def add_asset(
    code: Annotated[
        str, typer.Argument(help="The code that callers send: a capital letter, then capitals, digits and _.")
    ],
    name: Annotated[str, typer.Option(help="What people call it.")],
    scale: Annotated[int, typer.Option(help="Its number of fraction digits, 0 to 9. It never changes.")],
) -> None:
    """Add a kind of credit. Adding it again changes nothing; an asset is never changed."""
    from wallet_gql.operations import assets

    async def add(ledger: "Ledger") -> None:
        asset = await assets.add_asset(ledger, code, name, scale)
        typer.echo(f"Asset {asset.code} ({asset.name}) has {asset.scale} fraction digits.")

    with _database() as settings:
        _in_ledger(settings, add)


@app.command("set-asset")
def set_asset(
    code: Annotated[str, typer.Argument(help="The asset's code.")],
    transfers: Annotated[
        Literal["ALL", "PURCHASED", "NONE"] | None,
        typer.Option(help="Whether owners may transfer it to each other: any of it, what was paid for, or none of it."),
    ] = None,
    lots: Annotated[
        bool, typer.Option("--lots", help="Let each bonus be a lot, which may expire: for ever, it cannot be undone.")
    ] = False,
) -> None:
    """Set what may change of an asset: it holds from the next posting on, and what was posted stays."""
    from wallet_gql.operations import assets

    if transfers is None and not lots:
        raise typer.BadParameter("say what to set: --transfers, --lots or both")

    async def set_(ledger: "Ledger") -> None:
        policy = None if transfers is None else TransferPolicy[transfers]
        setting = await assets.set_asset(ledger, code, policy, has_lots=lots)
        typer.echo(
            f"Asset {code}: transfers {setting.transfers.name}, {'with' if setting.has_lots else 'without'} lots."
        )

    with _database() as settings:
        _in_ledger(settings, set_)


MaxAmount = Annotated[
    str | None, typer.Option(help="The most that it moves at once, such as 250.00; any amount if not given.")
]
KeyAssets = Annotated[
    list[str] | None, typer.Option("--assets", help="An asset that it moves; several times. All if not given.")
]
RateBurst = Annotated[
    int | None, typer.Option(help="Its own budget: the most points that it has; WALLET_RATE_BURST if not given.")
]
RatePerSecond = Annotated[
    int | None, typer.Option(help="How many points come back each second; WALLET_RATE_PER_SECOND if not given.")
]
DailyIssuance = Annotated[
    str | None,
    typer.Option(help="The most of an asset that it tops up and gives in a day of UTC; any amount if not given."),
]


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Who holds it, such as game-server: the name is kept with what it does.")],
    scope: Annotated[list[str], typer.Option(help=f"What it may do; several times. Of {', '.join(Scope)}.")],
    owner_prefix: Annotated[
        str | None, typer.Option(help="Only owners whose ids begin so; every owner if not given.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends, such as 90d or 12h from now; never if not given.")
    ] = None,
    max_amount: MaxAmount = None,
    asset: KeyAssets = None,
    daily_issuance: DailyIssuance = None,
    rate_burst: RateBurst = None,
    rate_per_second: RatePerSecond = None,
) -> None:
    """Make an API key and print it: it is shown this once, for only its hash is kept."""
    from wallet_gql.operations import api_keys

    expires_in = None if expires is None else _span(expires, "expires")
    if owner_prefix == "":
        # Out of a variable that is not set, it would reach everybody.
        raise BadUserInput("owner prefix", "is empty", "name one, or leave it out for a key that reaches every owner")
    asked = api_keys.KeyInput(
        name,
        scope,
        owner_prefix or "",
        expires_in,
        rate_burst,
        rate_per_second,
        max_amount,
        asset or (),
        daily_issuance,
    )
    with _database() as settings:
        text = _as_owner(settings, lambda engine: api_keys.create_key(engine, settings.mode, asked))
    typer.echo(text)
    _errors.print("Keep it where secrets are kept: it cannot be shown again.", highlight=False)


@keys.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False) -> None:
    """List all API keys, the newest first, without their secrets."""
    import orjson
    from rich.table import Table

    from wallet_gql.operations import api_keys

    with _database() as settings:
        found = _as_owner(settings, api_keys.list_keys)
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "mode": key.mode,
            "state": key.state,
            "scopes": sorted(key.rights.scopes),
            "ownerPrefix": key.rights.owner_prefix,
            "maxAmount": key.rights.max_amount and f"{key.rights.max_amount:f}",
            "assets": key.rights.assets and sorted(key.rights.assets),
            "dailyIssuance": key.rights.daily_issuance and f"{key.rights.daily_issuance:f}",
            "rateBurst": key.rights.budget and key.rights.budget.burst,
            "ratePerSecond": key.rights.budget and key.rights.budget.per_second,
            "createdAt": key.created_at,
            "expiresAt": key.expires_at,
            "lastUsedAt": key.last_used_at,
        }
        for key in found
    ]
    if as_json:
        typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table("id", "name", "mode", "state", "scopes", "owners", "expires", "last used", box=None)
    for key in found:
        owners = f"{key.rights.owner_prefix}…" if key.rights.owner_prefix else "all"
        times = (at.strftime("%Y-%m-%d %H:%M") if at else "never" for at in (key.expires_at, key.last_used_at))
        table.add_row(
            *map(escape, (key.id, key.name, key.mode, key.state, " ".join(sorted(key.rights.scopes)), owners, *times))
        )
    Console(soft_wrap=True).print(table)


@keys.command("rotate")
def rotate_key(id_: Annotated[str, typer.Argument(metavar="ID", help="The key's id, which list shows.")]) -> None:
    """Make a successor with the same name and rights, and print it; the old key ends in 24 hours."""
    from wallet_gql.operations import api_keys

    with _database() as settings:
        text = _as_owner(settings, lambda engine: api_keys.rotate_key(engine, id_))
    typer.echo(text)
    _errors.print(f"Key {escape(id_)} goes on for 24 hours: let its holder change to this one.", highlight=False)


@keys.command("revoke")
def revoke_key(id_: Annotated[str, typer.Argument(metavar="ID", help="The key's id, which list shows.")]) -> None:
    """End a key: within 5 seconds no server takes it any more."""
    from wallet_gql.operations import api_keys

    with _database() as settings:
        _as_owner(settings, lambda engine: api_keys.revoke_key(engine, id_))
    typer.echo(f"Key {id_} is revoked.")


def _span(text: str, name: str) -> timedelta:
    """Read a span of time, such as 90d, 12h or 30m."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([dhm])", text)
    if match is None:
        raise BadUserInput(name, f"cannot be read from {text[:20]!r}", "send a number with d, h or m, such as 90d")
    return int(match[1]) * {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}[match[2]]


LimitedAsset = Annotated[str, typer.Argument(help="The asset's code.")]
LimitedOwner = Annotated[str | None, typer.Option(help="Whose wallet it is for; all wallets if not given.")]


@limits.command("set")
def set_limit(
    asset: LimitedAsset,
    flow: Annotated[
        Literal["BALANCE", "IN", "OUT", "TOP_UP", "BONUS", "SPEND", "TRANSFER_OUT", "TRANSFER_IN"],
        typer.Option(help="What is limited."),
    ],
    max_amount: Annotated[str | None, typer.Option(help="The most together, such as 250.00.")] = None,
    max_count: Annotated[int | None, typer.Option(min=1, max=COUNT_MAX, help="The most movements.")] = None,
    owner: LimitedOwner = None,
    within: Annotated[str | None, typer.Option(help="A rolling window, such as 24h, 30m or 7d up to now.")] = None,
    per: Annotated[
        Literal["DAY", "WEEK", "MONTH"] | None, typer.Option(help="A window of the calendar, in --time-zone.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Where its midnights are, such as Europe/Berlin; UTC if not given.")
    ] = None,
    warn: Annotated[bool, typer.Option("--warn", help="Only log what exceeds it, to try it out.")] = False,
) -> None:
    """Limit what wallets may hold or move, from the next posting on. It takes the place of its like."""
    from wallet_gql.operations import limits as operations

    _check_limit(flow, max_amount, max_count, within, per, time_zone)
    window, amount = _limit_window(within, per, time_zone), None if max_amount is None else _limit_amount(max_amount)
    enforcement = Enforcement.WARN if warn else Enforcement.REFUSE
    asked = operations.LimitInput(
        asset, owner, LimitFlow[flow], window, amount, max_count, enforcement, uuid4(), asked_by=COMMAND_LINE
    )

    async def set_(ledger: "Ledger") -> None:
        rule = _changed(await operations.set_limit(ledger, asked))
        assert rule is not None
        _show_limits([operations.describe(ledger, rule)])

    with _database() as settings:
        _in_ledger(settings, set_)


def _check_limit(
    flow: str, max_amount: str | None, max_count: int | None, within: str | None, per: str | None, time_zone: str | None
) -> None:
    """Refuse options that do not go together, by the names that they have here."""
    is_balance, has_window = flow == "BALANCE", within is not None or per is not None
    if max_amount is None and max_count is None:
        raise typer.BadParameter("say --max-amount, --max-count or both")
    if is_balance and max_count is not None:
        raise typer.BadParameter("leave --max-count out: a balance is not counted")
    if is_balance and has_window:
        raise typer.BadParameter("leave --within and --per out: a balance has no window")
    if not is_balance and not has_window:
        raise typer.BadParameter("say --within or --per: only a balance has no window")
    if within is not None and per is not None:
        raise typer.BadParameter("say either --within or --per: a limit has one window")
    if time_zone is not None and per is None:
        raise typer.BadParameter("leave --time-zone out: it is for --per")


def _limit_window(within: str | None, per: str | None, time_zone: str | None) -> Window | None:
    from wallet_gql.operations import limits as operations

    if within is not None:
        return operations.rolling(round(_span(within, "within").total_seconds()))
    return None if per is None else operations.calendar(CalendarUnit[per], time_zone or "UTC")


def _limit_amount(text: str) -> Decimal:
    try:
        return parse_decimal(text)
    except ValueError:
        raise BadUserInput("max-amount", f"{text!r} is no amount", "send plain digits, such as 250.00") from None


def _changed(outcome: "LimitOutcome") -> Rule | None:
    """Return which version was set or removed; exits with a message where none was."""
    match outcome:
        case LimitsSet():
            return outcome.rule
        case WalletMissing():
            _fail(f"No wallet has the owner id {outcome.owner_id!r}.")
        case AssetMissing():
            _fail(f"No asset has the code {outcome.code!r}.")
        case AmountInvalid():
            _fail(f"max-amount cannot be one of this asset: {outcome.fault.value}.")
        case TooManyLimits():
            _fail(f"There are {LIMITS_MAX} limits already: remove one first.")
        case _:
            raise AssertionError("a fresh key was used before")


@limits.command("list")
def list_limits(
    asset: LimitedAsset,
    owner: LimitedOwner = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List the limits that are set: for all wallets, or for one owner's alone."""
    import orjson

    from wallet_gql.operations import limits as operations

    async def list_(ledger: "Ledger") -> list[dict[str, object]]:
        return [operations.describe(ledger, rule) for rule in await operations.list_limits(ledger, asset, owner)]

    with _database() as settings:
        found = _in_ledger(settings, list_)
    if as_json:
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        _show_limits(found)


def _show_limits(found: list[dict[str, object]]) -> None:
    """Print limits as a table."""
    from rich.table import Table

    table = Table("version", "flow", "window", "most", "movements", "enforcement", "set at", box=None)
    for each in found:
        window = "-" if each["flow"] == "BALANCE" else f"{each['rollingSeconds']} s"
        if each["unit"] is not None:
            window = f"{each['unit']} ({each['timeZone']})"
        most, movements = ("-" if each[name] is None else str(each[name]) for name in ("maxAmount", "maxCount"))
        set_at = f"{each['setAt']:%Y-%m-%d %H:%M}"
        table.add_row(
            str(each["version"]), str(each["flow"]), window, most, movements, str(each["enforcement"]), set_at
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@limits.command("remove")
def remove_limit(
    asset: LimitedAsset,
    version: Annotated[int, typer.Argument(help="The number of its version, which `limit list` shows.")],
    owner: LimitedOwner = None,
) -> None:
    """Remove a limit, in this very version: one that took its place meanwhile stays."""
    from wallet_gql.operations import limits as operations

    async def remove(ledger: "Ledger") -> None:
        rules = await operations.list_limits(ledger, asset, owner)
        rule = next((rule for rule in rules if rule.name.step == version), None)
        if rule is None:
            whose = "" if owner is None else f" --owner {shlex.quote(owner)}"
            _fail(f"No limit of version {version} holds: `wallet-gql limit list {asset}{whose}` shows which do.")
        _changed(await operations.remove_limit(ledger, rule.name, owner, uuid4(), asked_by=COMMAND_LINE))
        typer.echo(f"Version {version} does not hold any more.")

    with _database() as settings:
        _in_ledger(settings, remove)


def _as_owner(settings: "Settings", work: Callable[["AsyncEngine"], Coroutine[Any, Any, Result]]) -> Result:
    """Do what only the tables' owner may do."""
    from wallet_gql.db.engine import close, create_engine

    async def run() -> Result:
        engine = create_engine(settings, settings.owner_url())
        try:
            return await work(engine)
        finally:
            await close(engine)

    return asyncio.run(run())


@app.command()
def verify(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Prove that the books and what protects them are intact. Exit code 0: all is well; 1: what is broken is listed."""
    import orjson
    from rich.progress import Progress

    from wallet_gql.operations import proof

    async def prove(settings: "Settings") -> "Proof":
        with Progress(console=_errors, transient=True, disable=not _errors.is_terminal) as progress:
            bar = progress.add_task("Verifying", total=None)
            return await proof.prove(settings, on_check=lambda total: progress.update(bar, total=total, advance=1))

    with _database() as settings:
        result = asyncio.run(prove(settings))
    if as_json:
        typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
        raise SystemExit(1 if result.findings else 0)
    for finding in result.findings:
        place = "" if finding.shard is None else f"shard {finding.shard}: "
        typer.echo(f"{place}{finding.row}: {finding.fault} [{finding.check}]")
    if result.findings:
        typer.echo(f"BROKEN: {len(result.findings)} findings in {result.entry_count} entries.")
        raise SystemExit(1)
    typer.echo(f"The books balance: {result.entry_count} entries in {result.shard_count} shards.")


Moment = Annotated[str, typer.Option(help="Such as 2026-01-31T00:00:00Z; without a time zone it is in UTC.")]


@app.command()
def breakage(
    since: Moment,
    until: Moment,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, in smallest units.")] = False,
) -> None:
    """Report what became of bonuses from a time on until another: granted, spent, expired, outstanding, by campaign.

    What has lapsed counts from its end on, booked or not. Exit code 1: what flowed does not explain what remains.
    """
    import orjson

    from wallet_gql.operations.breakage import report_breakage, table_of

    with _database() as settings:
        flows = asyncio.run(report_breakage(settings, _moment(since, "since"), _moment(until, "until")))
    if as_json:
        found = [{**each._asdict(), "is_proven": each.is_proven} for each in flows]
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(table_of(flows))
    if not all(each.is_proven for each in flows):
        raise SystemExit(1)


def _moment(text: str, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadUserInput(name, f"{text!r} is no time", "send one such as 2026-01-01T00:00:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@app.command("export-schema")
def export_schema_command(
    path: Annotated[Path | None, typer.Argument(help="The file to write; standard output if not given.")] = None,
) -> None:
    """Write the API's schema: the committed schema.graphql is this."""
    from wallet_gql.endpoint.schema import export_schema

    if path is None:
        sys.stdout.write(export_schema())
    else:
        path.write_text(export_schema())


@app.command("database-url")
def database_url() -> None:
    """Print the address of the database in use, password included. An embedded one answers while it runs."""
    with _database() as settings:
        url = settings.server_url().set(drivername="postgresql")
        typer.echo(url.render_as_string(hide_password=False))
