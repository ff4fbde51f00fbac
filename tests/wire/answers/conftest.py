"""A tracker, as for clients on httpx, by which answers reach what is tested here."""

from tests.wire.httpx_clients.conftest import *  # noqa: F403
