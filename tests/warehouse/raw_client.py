"""A client that reads what is on the wire and believes none of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framefetch.warehouse import Warehouse


@dataclass(frozen=True)
class Heard:
    """All bytes up to the end of the connection, and whether that end was an RST."""

    data: bytes
    reset: bool = False

    @property
    def status(self) -> int:
        return int(self.data[9:12])

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    def fields(self, name: str) -> list[str]:
        lines = [line.decode("latin-1").partition(":") for line in self.head.split(b"\r\n")[1:]]
        return [value.strip() for key, _, value in lines if key.lower() == name.lower()]

    def field(self, name: str) -> str | None:
        return next(iter(self.fields(name)), None)


def request(target: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *fields, "", ""]).encode("utf-8", "surrogateescape")


async def ask(warehouse: Warehouse, key: int | str, *fields: str, method: str = "GET") -> Heard:
    """Ask on a new connection, and read until it ends; a kept one is ended by asking for that."""
    return await send(warehouse, request(warehouse.path(key), "Connection: close", *fields, method=method))


async def send(warehouse: Warehouse, data: bytes) -> Heard:
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port, limit=1 << 24)
    writer.write(data)
    try:
        return await read_all(reader)
    finally:
        writer.close()


async def read_all(reader: asyncio.StreamReader) -> Heard:
    data = b""
    try:
        while part := await reader.read(1 << 20):
            data += part
    except ConnectionResetError:
        return Heard(data, reset=True)
    return Heard(data)


async def read_answer(reader: asyncio.StreamReader) -> Heard:
    """Read one answer with a Content-Length, and leave the connection open."""
    head = await reader.readuntil(b"\r\n\r\n")
    heard = Heard(head)
    return Heard(head + await reader.readexactly(int(heard.field("Content-Length") or 0)))
