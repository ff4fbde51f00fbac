"""gunicorn, whose workers are forked once the application of `tests.prefork` is loaded."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

WATCHDOG_S = 120


def answers_of_workers(requests: int, graceful_s: int, **environment: str) -> list[dict[str, Any]]:
    """Start four workers with two threads each, send requests, and stop them.

    Args:
        requests: How many; sixteen at once.
        graceful_s: So long workers have to end, in seconds.
        environment: What `tests.prefork` asks for.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "tests.prefork:app", "--preload"]
    options = ["--workers=4", "--threads=2", f"--bind=127.0.0.1:{port}"]
    options += [f"--graceful-timeout={graceful_s}"]
    server = subprocess.Popen([*command, *options], env=os.environ | environment)
    try:
        return _answers(port, requests)
    finally:
        server.terminate()
        server.wait(WATCHDOG_S)


def _answers(port: int, requests: int) -> list[dict[str, Any]]:
    until = time.monotonic() + WATCHDOG_S
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                break
        assert time.monotonic() < until, "the server doesn't answer"
        time.sleep(0.1)
    with ThreadPoolExecutor(16) as pool:
        users = [f"user{number % 7}" for number in range(requests)]
        url = f"http://127.0.0.1:{port}/"
        return list(pool.map(lambda user: httpx.get(f"{url}?{user}", timeout=30).json(), users))
