"""Pass connections on to a port of the loopback, all bytes late: ``delay_bytes.py PORT SECONDS``; prints its port.

Each byte takes so many seconds in either direction, as over a line of that length and of any breadth. That a connection
is made is told by the system at once, so TCP's own round trip costs nothing.
"""

import asyncio
import sys

import uvloop


class End(asyncio.Protocol):
    """One end of a connection; what comes here goes to the other end, later."""

    def __init__(self, seconds, other=None):
        self.seconds = seconds
        self.other = other
        self.transport = None
        self.early = []
        self.over = False

    def connection_made(self, transport):
        self.transport = transport
        transport.writelines(self.early)
        if self.over:
            transport.close()

    def data_received(self, data):
        asyncio.get_running_loop().call_later(self.seconds, self.other.send, data)

    def connection_lost(self, _):
        asyncio.get_running_loop().call_later(self.seconds, self.other.end)

    def send(self, data):
        if self.transport is None:
            self.early.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def end(self):
        self.over = True
        if self.transport is not None:
            self.transport.close()


class Entrance(End):
    """The end towards whoever asks."""

    def __init__(self, seconds, port):
        super().__init__(seconds)
        self.port = port

    def connection_made(self, transport):
        super().connection_made(transport)
        self.other = End(self.seconds, self)
        self.task = asyncio.ensure_future(self._pass_on())

    async def _pass_on(self):
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.other, "127.0.0.1", self.port)
        except OSError:
            self.end()


async def main():
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    server = await asyncio.get_running_loop().create_server(
        lambda: Entrance(seconds, port), "127.0.0.1", 0, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
