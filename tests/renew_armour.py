"""Renews `wallet_gql/ledger/armour.json` from a freshly migrated database: `make armour`, after a new migration."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from sqlalchemy import make_url

from wallet_gql.db import migrations
from wallet_gql.embedded.launcher import start
from wallet_gql.ledger import armour


async def read(url: str) -> dict[str, Any]:
    connection = await asyncpg.connect(url)
    try:
        return await armour.read_armour(connection)
    finally:
        await connection.close()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wallet-gql-armour-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        with start(Path(folder) / "data") as server:
            url = make_url(server.server_url)
            migrations.upgrade(make_url(server.owner_url), url.username)
            found = asyncio.run(read(url.set(drivername="postgresql").render_as_string(hide_password=False)))
    text = orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    Path(armour.__file__).with_name("armour.json").write_bytes(text)


if __name__ == "__main__":
    main()
