"""TLS on a connection (RFC 8446): the standard library's, with what is sealed and what is not in our hands.

A loop's own TLS keeps the session to itself, so that all that comes passes through the loop, 16 KiB at a time. Here
whoever has the connection opens what comes on it: the loop, or a thread that has it on loan or reads the rest of a
body. Never two at once: while a thread has it, the loop does not read.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from asyncio import Future

__all__ = ["Past", "Seal", "Sealed"]

#: Bytes that a record holds at most (RFC 8446 section 5.1); no read brings more.
RECORD: Final = 1 << 14
#: Bytes before those of a record: a type, a version, and its length.
HEADER: Final = 5


class Past:
    """The session that the next connection to a host may go on with, in a shorter handshake (RFC 8446 section 2.2).

    It is for one host and one `SSLContext`: who goes on with a session shows no certificate again. Several connections
    go on with the same one. That tells who watches that they belong together (appendix C.4), as their times do.

    Attributes
    ----------
    session : SSLSession or None
        None where none is known.
    """

    def __init__(self) -> None:
        self.session: ssl.SSLSession | None = None
        self._given_up = False

    def learn(self, tls: ssl.SSLObject) -> None:
        """Keep what a server has said of going on, if it did; called by who may read from it."""
        if self.session is not None or self._given_up:
            return
        session = tls.session
        if session is not None and (session.has_ticket or session.id):
            self.session = session

    def forget(self, session: ssl.SSLSession) -> None:
        """Do not go on with a session again; the next one may be learned."""
        if self.session is session:
            self.session = None

    def give_up(self) -> None:
        """Go on with none any longer: there are servers, and things before servers, that break where one does."""
        self.session, self._given_up = None, True


class Seal:
    """A TLS session without a socket.

    Parameters
    ----------
    trust : SSLContext
        Whom to believe.
    name : str
        Who must be at the other end.
    past : Past or None, default None
        Has what to go on with, and learns it.
    """

    def __init__(self, trust: ssl.SSLContext, name: str, past: Past | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._past, self._before = past, None if past is None else past.session
        self._tls = trust.wrap_bio(self._incoming, self._outgoing, server_hostname=name, session=self._before)
        self._record_left, self._header = 0, b""
        #: Whether the other end has said that nothing more will come.
        self.ended = False
        #: What is wrong behind all that could be opened; who opens more has it raised.
        self.error: ssl.SSLError | None = None

    def shake(self) -> bool:
        """Go on with the handshake; tell whether it is done.

        Raises
        ------
        ssl.SSLError
            Where the other end is not who it should be, or speaks no TLS.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        if self._past is not None and self._before is not None and not self._tls.session_reused:
            self._past.forget(self._before)
        return True

    def feed(self, data: bytes | memoryview) -> None:
        """Take sealed bytes."""
        self._incoming.write(data)
        if self._header:
            data, self._header = self._header + bytes(data), b""
        at, size = self._record_left, len(data)
        while at + HEADER <= size:
            at += HEADER + (data[at + 3] << 8 | data[at + 4])
        if at < size:
            at, self._header = size, bytes(data[at:])
        self._record_left = at - size

    def feed_end(self) -> None:
        """Take the end of the connection."""
        self._incoming.write_eof()

    @property
    def is_silent(self) -> bool:
        """Whether nothing lies here, opened or not, down to a part of a record (which the session would not tell)."""
        return not (self._record_left or self._header or self._has_more)

    @property
    def _has_more(self) -> bool:
        return bool(self._incoming.pending or self._tls.pending())

    def open_into(self, room: memoryview) -> int | None:
        """Open at most a record into some room; return its bytes, 0 at the end, None where there is none for now.

        Raises
        ------
        ssl.SSLEOFError
            Where the connection ended and nobody had said so.
        ssl.SSLError
            Where something else is wrong.
        """
        if self.error is not None:
            raise self.error
        try:
            count = cast("int", self._tls.read(len(room), cast("Any", room)))
        except ssl.SSLWantReadError:
            return None
        self.ended = self.ended or not count
        if self._past is not None:
            self._learn()
        return count

    def fill(self, room: memoryview) -> int:
        """Open into some room until it is full or there is no more; return how many bytes; errors as `open_into`."""
        read, filled, size = cast("Any", self._tls.read), 0, len(room)
        if self.error is not None:
            raise self.error
        try:
            while filled < size:
                count = read(size - filled, room[filled:])
                if not count:
                    self.ended = True
                    break
                filled += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error
            if not filled:
                raise
        return filled

    def open(self, data: bytes) -> bytes:
        """Take sealed bytes and return what can be opened; errors are those of `open_into`."""
        self.feed(data)
        pieces: list[bytes] = []
        while self._has_more:
            try:
                piece = self._tls.read(RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self.error = error
                if not pieces:
                    raise
                break
            if not piece:
                self.ended = True
                break
            pieces.append(piece)
        if self._past is not None and pieces:
            self._learn()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _learn(self) -> None:
        """Learn how to go on, once: by the time of an answer, the server has said it."""
        assert self._past is not None
        self._past.learn(self._tls)
        self._past = None

    def close(self, data: bytes) -> bytes:
        """Seal bytes, and return what is to be sent."""
        self._tls.write(data)
        return self._outgoing.read()

    def unsent(self) -> bytes:
        """Return what the session itself has to say."""
        return self._outgoing.read() if self._outgoing.pending else b""


class Sealed(asyncio.BufferedProtocol):
    """The loop's end of a seal: a protocol to the socket's transport, and a transport to a connection.

    Parameters
    ----------
    seal : Seal
        The session.
    scratch : memoryview
        Where to receive; what is there is taken at once.

    Attributes
    ----------
    shaken : Future
        Done when the handshake is, with its error where it failed.
    """

    def __init__(self, seal: Seal, scratch: memoryview) -> None:
        self.seal = seal
        self._scratch = scratch
        self._loop = asyncio.get_running_loop()
        self.shaken: Future[None] = self._loop.create_future()
        self._above: asyncio.BufferedProtocol | None = None
        self._paused = False
        self._pumps = False
        self._lost = False
        self._why: Exception | None = None
        self._told = self._given_up = False

    def carry(self, above: asyncio.BufferedProtocol) -> None:
        """Let a protocol have what comes from here on."""
        self._above = above
        above.connection_made(cast("asyncio.BaseTransport", self))
        self._pump_soon()

    # -- a protocol, to the socket ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast("asyncio.Transport", transport)
        self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        """Return where the next bytes go."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take sealed bytes."""
        self.seal.feed(self._scratch[:nbytes])
        if self._above is not None:
            self._pump()
        elif not self.shaken.done():
            self._shake()

    def eof_received(self) -> bool:
        """Take the end of what comes; the transport stays until all that came is opened."""
        if self._above is None:
            self._fail(ConnectionResetError("the other end closed the connection in the TLS handshake"))
            return False
        self.seal.feed_end()
        self._pump()
        return not self._told

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection; who reads slowly still gets what came before it."""
        self._lost, self._why = True, exc
        if self._above is None:
            self._fail(exc or ConnectionResetError("the connection ended in the TLS handshake"))
        elif self._given_up:
            self._tell(exc)
        else:
            self._pump()

    def _shake(self) -> None:
        try:
            done = self.seal.shake()
        except OSError as error:  # ssl.SSLError is one
            self._fail(error)
            self._flush()  # the other end is told why
            self._transport.close()
            return
        self._flush()
        if done and not self.shaken.done():
            self.shaken.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.shaken.done():
            self.shaken.set_exception(error)
            self.shaken.exception()  # who dials may have given up

    def _flush(self) -> None:
        if (data := self.seal.unsent()) and not self._lost:
            self._transport.write(data)

    def _pump_soon(self) -> None:
        if not self._pumps:
            self._pumps = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Give what can be opened to who is above, until it has enough."""
        self._pumps = False
        if self._paused:
            return  # a thread may have the session by now
        above = self._above
        assert above is not None
        try:
            while self._is_heard:
                count = self.seal.open_into(cast("memoryview", above.get_buffer(-1)))
                if count is None:
                    if self._lost:
                        self._tell(self._why)
                    break
                if not count:
                    above.eof_received()
                    self._tell(None)
                    break
                above.buffer_updated(count)
        except ssl.SSLEOFError:
            self._tell(None)
        except ssl.SSLError as error:
            self._tell(error)
        self._flush()
        if self._told:
            self._transport.abort() if self._why else self._transport.close()

    @property
    def _is_heard(self) -> bool:
        return not (self._paused or self._told or self._given_up)

    def _tell(self, error: Exception | None) -> None:
        """Tell who is above that nothing more will come."""
        if not self._told:
            self._told, self._why = True, error
            assert self._above is not None
            self._above.connection_lost(error)

    # -- a transport, to a connection ---------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Seal bytes and send them; where the session takes none, that is the connection's end."""
        try:
            self._transport.write(self.seal.close(data))
        except ssl.SSLError as error:
            self._tell(error)
            self._transport.abort()

    def write_sealed(self, data: bytes) -> None:
        """Send what is sealed already."""
        self._transport.write(data)

    def pause_reading(self) -> None:
        """Receive nothing, and open nothing."""
        if not self._paused:
            self._paused = True
            if not self._lost:
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on; what lies here comes first, but not before this has returned."""
        if self._paused:
            self._paused = False
            if not self._lost:
                self._transport.resume_reading()
        self._pump_soon()

    def is_closing(self) -> bool:
        """Return whether it is at its end."""
        return self._told or self._transport.is_closing()

    def abort(self) -> None:
        """Close at once; what came and is not opened is dropped."""
        self._given_up = True
        self._transport.abort()

    def get_extra_info(self, name: str) -> Any:
        """Return what the socket's transport knows."""
        return self._transport.get_extra_info(name)
