"""A small TCP proxy that fails on command: cuts, delays, refuses, swallows, loses answers.

It also speaks TLS for servers that cannot.

It runs in a thread of its own. Its knobs may be turned from the test's thread at any time, and
work on connections that are open already.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

HOST = "127.0.0.1"
_CHUNK = 65_536
_SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
_REASONS = {429: "Too Many Requests", 503: "Service Unavailable"}
_TYPES = {429: "es_rejected_execution_exception", 503: "unavailable_shards_exception"}

Result = TypeVar("Result")


@dataclass(eq=False)
class _Pipe:
    """One connection through the proxy: from the client's socket to the server's and back."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    swallowed: bool = False
    answer_is_lost: bool = False

    def abort(self) -> None:
        """Reset both connections, as a firewall does, or a host that has started again."""
        for writer in (self.client, self.server):
            sock = writer.get_extra_info("socket")
            if sock is not None:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()


@dataclass
class Proxy:
    """A door to `host:behind`; it is at `HOST` and `port`, inside its `with`."""

    host: str
    behind: int
    http: bool = False
    """Whether to read request by request, for `fail`."""
    tls: ssl.SSLContext | None = None
    """With it, whoever comes has to speak TLS; the server behind is spoken to without."""
    asks_first: bool = False
    """Whether clients ask before they speak TLS, as those of PostgreSQL do."""
    delay: float = 0.0
    """Seconds that every piece of data waits, each way."""
    port: int = 0
    lost: int = 0
    """How many answers were lost so far, of those that `lose_answers` asked for."""
    failed: int = 0
    """How many requests were answered by the proxy itself."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _pipes: set[_Pipe] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _swallows: bool = False
    _marker: bytes = b""
    _to_lose: int = 0
    _to_fail: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Open the door."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the door and every connection."""
        self.refuse()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    # -- the knobs ------------------------------------------------------------------------

    def cut(self) -> int:
        """Reset every open connection; returns how many. New ones pass."""
        return self._do(self._cut())

    def refuse(self) -> None:
        """Refuse new connections, as a server does that is not there."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Take new connections (again)."""
        self._do(self._accept())

    def swallow(self, *, also_new: bool = True) -> None:
        """Be a black hole: what is sent on an open connection is taken and never delivered."""
        self._swallows = also_new
        self._do(self._swallow())

    def heal(self) -> None:
        """Let new connections pass. What was swallowed stays so: nobody sends it again."""
        self._swallows = False

    def lose_answers(self, to: bytes, times: int) -> None:
        """Cut the connection instead of delivering the answer to a request that holds `to`.

        The server has done what was asked, and the client cannot know it.
        """
        self._marker, self._to_lose = to, times

    def fail(self, *statuses: int) -> None:
        """Answer the next requests with these HTTP statuses; the server never sees them."""
        self._to_fail += statuses

    # -- how it is done -------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _accept(self) -> None:
        if self._server is None:
            at_once = None if self.asks_first else self.tls
            self._server = await asyncio.start_server(self._connected, HOST, self.port, ssl=at_once)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _cut(self) -> int:
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.abort()
        return len(pipes)

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _swallow(self) -> None:
        for pipe in self._pipes:
            pipe.swallowed = True

    async def _connected(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        try:
            if self.asks_first:
                await self._answer(from_client, to_client)
            from_server, to_server = await asyncio.open_connection(self.host, self.behind)
        except (OSError, asyncio.IncompleteReadError):
            to_client.transport.abort()
            return
        pipe = _Pipe(to_client, to_server, swallowed=self._swallows)
        self._pipes.add(pipe)
        there = self._requests if self.http else self._pump_there
        try:
            await asyncio.gather(there(pipe, from_client), self._pump_back(pipe, from_server))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._pipes.discard(pipe)
            pipe.abort()

    async def _answer(self, source: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Agree to PostgreSQL's SSLRequest, which is eight bytes; others are not let in."""
        if await source.readexactly(8) != _SSL_REQUEST:
            raise ConnectionRefusedError
        client.write(b"S")
        assert self.tls is not None
        await client.start_tls(self.tls)

    async def _pump_there(self, pipe: _Pipe, source: asyncio.StreamReader) -> None:
        while data := await source.read(_CHUNK):
            await self._deliver(pipe, data)
        await self._closed(pipe)

    async def _requests(self, pipe: _Pipe, source: asyncio.StreamReader) -> None:
        """As `_pump_there`, request by request."""
        while True:
            head = await source.readuntil(b"\r\n\r\n")
            body = await source.readexactly(_length(head))
            if self._to_fail and not pipe.swallowed:
                self.failed += 1
                pipe.client.write(_failure(self._to_fail.pop(0)))
            else:
                await self._deliver(pipe, head + body)

    async def _deliver(self, pipe: _Pipe, data: bytes) -> None:
        await asyncio.sleep(self.delay)
        if pipe.swallowed:
            return
        if self._to_lose and self._marker in data:
            self._to_lose -= 1
            pipe.answer_is_lost = True
        pipe.server.write(data)
        await pipe.server.drain()

    async def _pump_back(self, pipe: _Pipe, source: asyncio.StreamReader) -> None:
        while data := await source.read(_CHUNK):
            await asyncio.sleep(self.delay)
            if pipe.answer_is_lost:
                self.lost += 1
                raise ConnectionResetError
            if not pipe.swallowed:
                pipe.client.write(data)
                await pipe.client.drain()
        await self._closed(pipe)

    async def _closed(self, pipe: _Pipe) -> None:
        """One side has closed: a black hole does not tell the other one."""
        if pipe.swallowed:
            await asyncio.Event().wait()
        raise ConnectionResetError


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return 0


def _failure(status: int) -> bytes:
    reason = f'"type":"{_TYPES[status]}","reason":"made by the test"'
    body = f'{{"error":{{{reason}}},"status":{status}}}'
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nX-elastic-product: Elasticsearch\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    ).encode()
