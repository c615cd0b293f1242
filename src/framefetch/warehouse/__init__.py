"""A scriptable file server, for the demo, the tests and the benchmarks.

It serves files as a good server does, and every fault of the catalogue on request; it records every request and
every byte of its target. See `framefetch.warehouse.answers` for what it can be told to say.
"""

from framefetch.warehouse.answers import (
    CONTINUE,
    Answer,
    Chunked,
    End,
    Headers,
    Pace,
    Push,
    Raw,
    Reply,
    Scripted,
    Serve,
    Stop,
    hold,
    rate,
)
from framefetch.warehouse.content import (
    OLD_DATE,
    Content,
    Repeated,
    StoredFile,
    bomb,
    deflated,
    endless,
    gzipped,
)
from framefetch.warehouse.hdf5 import MINIMUM_SIZE, hdf5_content, hdf5_file
from framefetch.warehouse.listener import ConnectionAnswer
from framefetch.warehouse.record import Event, RequestRecord
from framefetch.warehouse.server import FILES, Warehouse
from framefetch.warehouse.thread import WarehouseThread
from framefetch.warehouse.wire import reply_bytes

__all__ = [
    "CONTINUE",
    "FILES",
    "MINIMUM_SIZE",
    "OLD_DATE",
    "Answer",
    "Chunked",
    "ConnectionAnswer",
    "Content",
    "End",
    "Event",
    "Headers",
    "Pace",
    "Push",
    "Raw",
    "Repeated",
    "Reply",
    "RequestRecord",
    "Scripted",
    "Serve",
    "Stop",
    "StoredFile",
    "Warehouse",
    "WarehouseThread",
    "bomb",
    "deflated",
    "endless",
    "gzipped",
    "hdf5_content",
    "hdf5_file",
    "hold",
    "rate",
    "reply_bytes",
]
