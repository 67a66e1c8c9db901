"""What `make conformance` runs: other people's tools and clients, each against the same real server.

Prints a heading and a PASS or FAIL for each check, then the sum; the exit code is 1 where anything failed, and nothing
is ever skipped. Needs Node 20 with npm, a JDK 17, and Chromium, which it gets from Debian where it is missing.
Everything that it makes is in `.work` and `node_modules`, but for the server's data, which is below `/tmp` and removed.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
WORK: Final = HERE / ".work"
NODE_MODULES: Final = HERE / "node_modules"
CLIENTS: Final = WORK / "python"
"""The environment of the Python clients: they need another graphql-core than the service does."""

WALLET: Final = Path(sys.executable).with_name("wallet-gql")
SERVER_LOG: Final = WORK / "server.log"
TIMEOUT_SECONDS: Final = 600
NODE_MIN: Final = (20, 19)

# A developer's own settings do not reach the server; its .env does not either, for it starts elsewhere.
ENVIRONMENT: Final = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("WALLET_", "DATABASE_URL"))},
    "CI": "true",
    "NO_COLOR": "1",
    "DEBIAN_FRONTEND": "noninteractive",
}


class Failed(Exception):
    """A check that failed, and what was said."""


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: str | Path, cwd: Path = HERE, environment: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed; raises Failed where it ends with another code than 0."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not installed.") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} did not end within {TIMEOUT_SECONDS} s.") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stdout}\nended with code {done.returncode}.")
    return done.stdout


def node(script: str | Path, *arguments: str | Path) -> str:
    # As development runs them, clients warn of what their caches lose.
    return run("node", "--conditions=development", script, *arguments)


def npm_tool(name: str, *arguments: str | Path, cwd: Path = HERE) -> str:
    return run(NODE_MODULES / ".bin" / name, *arguments, cwd=cwd)


def emptied(folder: Path) -> Path:
    """Return a folder of what is generated, without what an earlier run left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def install(folder: Path, made_of: bytes, *commands: tuple[str | Path, ...]) -> None:
    """Make a folder anew by these commands, unless it was made of the same before."""
    stamp = folder / ".conformance"
    digest = hashlib.sha256(made_of).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for command in commands:
        run(*command)
    stamp.write_text(digest)


def install_npm_packages() -> str:
    remedy = f"Install Node.js {NODE_MIN[0]} with npm: conformance needs it, `make test` does not."
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            raise Failed(f"{name} is not installed. {remedy}")
    version = run("node", "--version").strip()
    if tuple(map(int, version.removeprefix("v").split(".")[:2])) < NODE_MIN:
        raise Failed(f"Node.js is {version}. {remedy}")
    made_of = version.encode() + (HERE / "package-lock.json").read_bytes()
    # No package's own script is run: esbuild's would only speed its start.
    install(NODE_MODULES, made_of, ("npm", "ci", "--ignore-scripts", "--no-update-notifier"))
    return f"Node.js {version}"


def install_python_clients() -> str:
    requirements = HERE / "python" / "requirements.txt"
    pip = (CLIENTS / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    install(
        CLIENTS,
        sys.version.encode() + requirements.read_bytes(),
        (sys.executable, "-m", "venv", CLIENTS),
        (*pip, "install", "--require-hashes", "--requirement", requirements),
    )
    return f"Python {sys.version.split()[0]}"


def find_chromium() -> tuple[Path, dict[str, str]]:
    """Return Chromium's program and the variables it needs; gets Debian's package where it is missing."""
    named = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if named:
        return Path(named), {}
    if shutil.which("apt-get") is None:
        raise Failed("Chromium is not installed. Install it, or say where it is: make conformance CHROMIUM=/path/to/it")
    if os.geteuid() == 0:
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium")
        return Path("/usr/bin/chromium"), {}
    return unpack_chromium(WORK / "chromium")


def unpack_chromium(folder: Path) -> tuple[Path, dict[str, str]]:
    """Unpack Debian's Chromium, and what it needs that is not installed, without the rights to install it."""
    program = folder / "usr/lib/chromium/chromium"
    if not program.exists():
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        own = [f"-oDir::State::Lists={folder}/lists", f"-oDir::Cache={folder}", "-oDebug::NoLocking=1"]
        run("apt-get", *own, "update", "-qq")
        planned = run("apt-get", *own, "install", "--simulate", "--no-install-recommends", "chromium")
        run("apt-get", *own, "download", "-qq", *re.findall(r"^Inst (\S+)", planned, re.MULTILINE), cwd=folder)
        for package in folder.glob("*.deb"):
            run("dpkg-deb", "--extract", package, folder)
            package.unlink()
    libraries = {str(library.parent) for library in (folder / "usr/lib").rglob("*.so*")}
    fonts = {} if Path("/etc/fonts").exists() else {"FONTCONFIG_PATH": str(folder / "etc/fonts")}
    return program, {"LD_LIBRARY_PATH": ":".join(sorted(libraries)), **fonts}


@contextmanager
def serve() -> Iterator[tuple[str, Path]]:
    """Run the service with demo data on an embedded PostgreSQL of its own; gives its address and data folder."""
    folder = Path(tempfile.mkdtemp(prefix="wallet-gql-conformance-", dir="/tmp"))
    folder.chmod(0o755)  # PostgreSQL runs as another account where we are root
    data = folder / "data"
    with SERVER_LOG.open("w") as log:
        server = subprocess.Popen(
            [WALLET, "serve", "--demo", "--port", "0"],
            cwd=folder,
            env={**ENVIRONMENT, "WALLET_DATA_DIR": str(data), "WALLET_LOG_FORMAT": "json"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert server.stdout is not None
        found = next((found for line in server.stdout if (found := re.search(r"http://\S+/graphql", line))), None)
        if found is None:
            raise Failed(f"The server did not start:\n{SERVER_LOG.read_text()}")
        wait_for(found[0], server)
        yield found[0], data
    finally:
        server.terminate()
        server.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, server: subprocess.Popen[str]) -> None:
    for _ in range(300):
        try:
            httpx.get(url.replace("/graphql", "/health"), timeout=5)
        except httpx.TransportError:
            if server.poll() is not None:
                raise Failed(f"The server ended:\n{SERVER_LOG.read_text()}") from None
            time.sleep(0.1)
        else:
            return
    raise Failed("The server does not answer.")


def audits(url: str) -> str:
    return node("audits.mjs", url)


def apollo(url: str) -> str:
    return node("apollo.mjs", url)


def urql(url: str) -> str:
    return node("urql.mjs", url)


def relay(url: str) -> str:
    emptied(WORK / "relay")
    npm_tool("relay-compiler", "--noWatchman", cwd=HERE / "relay")
    return typecheck_and_run("relay", url)


def codegen(url: str) -> str:
    emptied(WORK / "codegen")
    npm_tool("graphql-codegen", "--config", "codegen/codegen.yml")
    return typecheck_and_run("codegen", url)


def typecheck_and_run(folder: str, url: str) -> str:
    npm_tool("tsc", "--project", folder)
    bundle = WORK / f"{folder}.mjs"
    npm_tool("esbuild", f"{folder}/run.ts", "--bundle", "--platform=node", "--format=esm", f"--outfile={bundle}")
    return node(bundle, url)


def eslint(_url: str) -> str:
    files = ("schema.graphql", "tests/conformance/operations.graphql")
    npm_tool("eslint", "--max-warnings=0", "--config", HERE / "eslint.config.mjs", *files, cwd=ROOT)
    return "schema.graphql and the sample operations keep every chosen rule"


def ariadne(url: str) -> str:
    package = emptied(WORK / "ariadne")
    run(CLIENTS / "bin" / "ariadne-codegen", "--config", "python/ariadne-codegen.toml")
    return run(CLIENTS / "bin" / "python", "python/ariadne_client.py", url, environment={"PYTHONPATH": str(package)})


def gql(url: str) -> str:
    return run(CLIENTS / "bin" / "python", "python/gql_client.py", url)


def java(url: str) -> str:
    if shutil.which("java") is None:
        raise Failed("java is not installed. Install a JDK 17 or newer: conformance needs it, `make test` does not.")
    return run("java", "java/DefaultClient.java", url)


def graphiql(url: str) -> str:
    program, variables = find_chromium()
    return run("node", "graphiql.mjs", url, program, emptied(WORK / "screenshots"), environment=variables)


def schemathesis(url: str) -> str:
    hold = (
        'mutation { placeHold(input: {ownerId: "demo-alice", amount: "5", idempotencyKey: "%s"}) '
        "{ ... on PlaceHoldPayload { hold { id } } } }"
    )
    holds = [
        httpx.post(url, json={"query": hold % uuid4()}, timeout=10).json()["data"]["placeHold"]["hold"]["id"]
        for _ in range(5)
    ]
    query = '{ wallet(ownerId: "demo-alice") { id balance { id asset { id } } transactions { nodes { id } } } }'
    wallet: dict[str, Any] = httpx.post(url, json={"query": query}, timeout=10).json()["data"]["wallet"]
    transactions = [node["id"] for node in wallet["transactions"]["nodes"]]
    ids = [wallet["id"], wallet["balance"]["id"], wallet["balance"]["asset"]["id"], *transactions, *holds]
    # As schemathesis reads dictionaries: a quoted entry on each line.
    (WORK / "ids.txt").write_text("".join(f'"{id_}"\n' for id_ in ids))
    (WORK / "transaction-ids.txt").write_text("".join(f'"{id_}"\n' for id_ in transactions))
    (WORK / "hold-ids.txt").write_text("".join(f'"{id_}"\n' for id_ in holds))
    printed = run(
        *(CLIENTS / "bin" / "schemathesis", "--config-file", HERE / "python" / "schemathesis.toml", "run", url),
        cwd=emptied(WORK / "schemathesis"),
        environment={"PYTHONPATH": str(HERE / "python")},
    )
    return next(line.strip() for line in printed.splitlines() if "generated" in line)


def no_fault_was_logged() -> str:
    """Check what no client sees: every fault of the server's own is logged as an error."""
    lines = SERVER_LOG.read_text().splitlines()
    faults = list(filter(is_fault, lines))
    if faults:
        raise Failed("\n".join(faults[:20]))
    requests = sum('"event":"request"' in line for line in lines)
    return f"{requests} requests, none answered with a status 5xx"


def is_fault(line: str) -> bool:
    try:
        said = json.loads(line)
    except ValueError:
        return True  # a stack trace past the log, say
    return said["level"] in {"error", "critical"} or said.get("status", 200) >= 500


def verify(data: Path) -> str:
    return run(WALLET, "verify", cwd=data.parent, environment={"WALLET_DATA_DIR": str(data)})


CHECKS: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (
    ("GraphQL over HTTP: the audits of graphql-http", audits),
    ("Apollo Client: its normalised cache", apollo),
    ("urql with graphcache: its normalised cache", urql),
    ("Relay: compiler and runtime", relay),
    ("graphql-codegen: the client preset under strict TypeScript", codegen),
    ("graphql-eslint: the schema's rules", eslint),
    ("ariadne-codegen: a generated Python client", ariadne),
    ("gql: a Python client that introspects", gql),
    ("Java: its default HttpClient", java),
    ("GraphiQL: in Chromium, with the network closed", graphiql),
    ("schemathesis: generated requests, with a fixed seed", schemathesis),
)


def passes(title: str, check: Callable[[], str]) -> bool:
    """Run one check and say how it went."""
    say(f"\n== {title}")
    started = time.monotonic()
    try:
        told = check().strip().splitlines()
    except (Failed, httpx.HTTPError) as failure:
        say(f"{failure}\nFAIL {title}")
        return False
    say(f"PASS in {time.monotonic() - started:.1f} s: {told[-1] if told else 'nothing to say'}")
    return True


def main() -> int:
    # So that the server is stopped whoever stops us: the default would end this process at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    WORK.mkdir(exist_ok=True)
    results = [
        passes("npm packages of the lock file", install_npm_packages),
        passes("Python packages of the lock file", install_python_clients),
    ]
    if all(results):
        try:
            with serve() as (url, data):
                say(f"\nServing {url}")
                results += [passes(title, partial(check, url)) for title, check in CHECKS]
                results += [
                    passes("The server's log: no fault", no_fault_was_logged),
                    passes("wallet-gql verify: the books after all this", partial(verify, data)),
                ]
        except Failed as failure:
            say(f"\n{failure}\nFAIL the server")
            results.append(False)
    say(f"\n{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
