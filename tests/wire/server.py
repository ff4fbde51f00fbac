"""A provider on 127.0.0.1 that speaks the real formats and knows what it billed.

```python
with LoopbackProvider() as provider:
    provider.script(Reply(text="Paris", usage=Billed(input=22_734, output=56, cache_read=21_500)))
    client = Anthropic(api_key="none", base_url=provider.url("anthropic"))
    ...
    [call] = provider.calls
    assert call.billed == Billed(input=22_734, output=56, cache_read=21_500)
```

The server runs in a thread and an event loop of its own, so synchronous and asynchronous clients
can talk to it alike.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from aiohttp import web

from .formats import ROUTES, Answer, Request, Route
from .replies import Billed, Call, Ending, Reply, figures

__all__ = ["LoopbackProvider"]

_FIRST_ERROR = 400
_MAX_BODY_BYTES = 1 << 28
_POLL_S = 0.005


class LoopbackProvider:
    """Answers as scripted, else with figures of its own, and keeps a list of every call.

    Use it as a context manager. All methods may be called from any thread.
    """

    def __init__(self, default: Reply | None = None) -> None:
        """Prepare a provider; nothing listens before the context is entered.

        Args:
            default: What to answer when nothing is scripted.
        """
        self._default = default or Reply()
        self._script: deque[Reply] = deque()
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count()
        self._figures = figures()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="loopback", daemon=True)
        self._ready = threading.Event()
        self._stopping: asyncio.Event | None = None
        self._port = 0

    def __enter__(self) -> Self:
        """Listen on a free port of 127.0.0.1."""
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection and stop the thread."""
        stopping = self._stopping
        if stopping is not None:
            self._loop.call_soon_threadsafe(stopping.set)
        self._thread.join()

    def url(self, provider: str = "") -> str:
        """Give the base URL that a provider's client is to be pointed at.

        Args:
            provider: `anthropic`, `bedrock`, `cohere`, `gemini`, `mistral`, `ollama` or `openai`.
        """
        return f"http://127.0.0.1:{self._port}" + (f"/{provider}" if provider else "")

    def script(self, *replies: Reply) -> None:
        """Queue answers for the calls to come, in the order in which they arrive."""
        with self._lock:
            self._script.extend(replies)

    @property
    def calls(self) -> list[Call]:
        """Every call so far, in order of arrival, as it stands now."""
        with self._lock:
            return list(self._calls.values())

    @property
    def billed(self) -> list[Billed]:
        """The bills of all calls that weren't refused, in order of arrival."""
        return [call.billed for call in self.calls if call.billed is not None]

    def reset(self) -> None:
        """Forget the script and all calls; an answer still on its way is no longer noted."""
        with self._lock:
            self._script.clear()
            self._calls.clear()

    def settle(self, timeout_s: float = 5.0) -> list[Call]:
        """Wait until no answer is on its way any more, and give the calls.

        Raises:
            TimeoutError: One still was when `timeout_s` had passed.
        """
        deadline = time.monotonic() + timeout_s
        while any(call.ended == "open" for call in self.calls):
            if time.monotonic() > deadline:
                msg = f"answers are still on their way after {timeout_s} s: {self.calls}"
                raise TimeoutError(msg)
            time.sleep(_POLL_S)
        return self.calls

    # --- In the server's thread --------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _run(self) -> None:
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        # The runner knows the port only once the system has chosen one.
        self._port = int(runner.addresses[0][1])
        self._ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        route, model = _match(http.path)
        if route is None:
            return web.json_response({"error": f"no format answers {http.path}"}, status=404)
        body = _decode(await http.read())
        request = Request(http.path, model or str(body.get("model", "")), body)
        number, reply = self._note(route, request)
        if reply.delay_s:
            await self._wait(reply.delay_s)
        if reply.status >= _FIRST_ERROR:
            answer = route.refuse(reply.status, f"the script answers {reply.status}.")
        else:
            usage = None if reply.usage_missing else reply.usage
            answer = route.respond(request, reply, usage)
        return await self._send(http, number, reply, answer)

    def _note(self, route: Route, request: Request) -> tuple[int, Reply]:
        with self._lock:
            reply = self._script.popleft() if self._script else self._default
            if reply.usage is None:
                reply = replace(reply, usage=next(self._figures))
            billed = reply.usage if reply.status < _FIRST_ERROR else None
            call = Call(
                number=next(self._numbers),
                api=route.api,
                path=request.path,
                model=request.model,
                request=request.body,
                status=reply.status,
                streamed=False,
                billed=billed,
            )
            self._calls[call.number] = call
            return call.number, reply

    def _update(self, number: int, **changes: object) -> None:
        with self._lock:
            call = self._calls.get(number)
            if call is not None:
                self._calls[number] = replace(call, **changes)  # type: ignore[arg-type]

    async def _send(
        self, http: web.Request, number: int, reply: Reply, answer: Answer
    ) -> web.StreamResponse:
        headers = {"Content-Type": answer.content_type, **answer.headers}
        if not answer.streamed:
            frame = answer.frames[0]
            self._update(number, reported=frame.reports, ended="finished")
            return web.Response(status=reply.status, body=frame.data, headers=headers)
        self._update(number, streamed=True)
        response = web.StreamResponse(status=reply.status, headers=headers)
        response.enable_chunked_encoding()
        ending: Ending = "left"
        with suppress(ConnectionError):
            await response.prepare(http)
            ending = await self._write(http, response, number, reply, answer)
        self._update(number, ended=ending)
        return response

    async def _write(
        self,
        http: web.Request,
        response: web.StreamResponse,
        number: int,
        reply: Reply,
        answer: Answer,
    ) -> Ending:
        sent = 0
        for frame in answer.frames:
            # Noted first: a client may have read the bytes before this line comes back.
            if frame.reports is not None:
                self._update(number, reported=frame.reports)
            await response.write(frame.data)
            sent += frame.content
            if not frame.content:
                continue
            if sent == reply.cut_after:
                transport = http.transport
                if transport is not None:
                    transport.abort()
                return "cut"
            if sent == reply.stall_after:
                await self._until_left(http)
                return "left"
        await response.write_eof()
        return "finished"

    async def _until_left(self, http: web.Request) -> None:
        assert self._stopping is not None
        while not self._stopping.is_set():
            transport = http.transport
            if transport is None or transport.is_closing():
                return
            await asyncio.sleep(_POLL_S)

    async def _wait(self, seconds: float) -> None:
        assert self._stopping is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def _match(path: str) -> tuple[Route | None, str | None]:
    for route in ROUTES:
        found = route.pattern.fullmatch(path)
        if found is not None:
            return route, found.groupdict().get("model")
    return None, None


def _decode(raw: bytes) -> Mapping[str, object]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {"body": body}
