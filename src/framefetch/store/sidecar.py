"""What is known of a part beside its bytes: whose it is, what it is the beginning of, how much of it is believed.

A sidecar lies beside every part that could be gone on with. Now and then, and when the part is put aside, it takes a
proof: so many bytes have this digest. Who goes on reads the part again and believes it as far as the proofs hold,
whatever happened to it meanwhile; a file's length alone may survive where its bytes did not. Only of a part whose
process died is more believed, up to its length, and only within the same boot of the machine: what a process wrote
stays in the kernel when it dies.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from framefetch.models import Entity
from framefetch.native.calls import write_all
from framefetch.store.extents import Extents
from framefetch.store.places import remove

if TYPE_CHECKING:
    from framefetch.models import Request

__all__ = ["KEPT", "Sidecar", "believed_length", "kept_name", "read_sidecar", "write_sidecar"]

#: How the names of parts begin that no process is working on.
KEPT = "kept-"
_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is known of a part.

    Parameters
    ----------
    version, key, path : str
        The request it is for.
    entity : Entity
        What its bytes are the beginning of.
    boot : str
        The boot of the machine within which it is being written; empty where it is not, or the system does not say.
    proofs : tuple of (int, str)
        Lengths and the md5 of so many first bytes, shortest first.
    extents : tuple of (int, int)
        What is there, first byte and the one behind the last, where bytes come out of order; else nothing.
    """

    version: str
    key: str
    path: str
    entity: Entity
    boot: str
    proofs: tuple[tuple[int, str], ...] = ()
    extents: tuple[tuple[int, int], ...] = ()

    @property
    def proved(self) -> int:
        """The length of the longest proof."""
        return self.proofs[-1][0] if self.proofs else 0

    def is_for(self, request: Request) -> bool:
        """Return whether the part belongs to a request."""
        return (self.version, self.key, self.path) == (request.version, request.key, request.path)


def kept_name(version: str, key: str, path: str) -> str:
    """Return the name under which a part waits to be gone on with: short, and the same in every run."""
    identity = f"{version}\0{key}\0{path}".encode("utf-8", "surrogatepass")
    return KEPT + hashlib.blake2b(identity, digest_size=10).hexdigest()


def believed_length(sidecar: Sidecar, size: int, boot: str) -> int:
    """Return how many bytes of a part are to be read again, of those that are there."""
    if sidecar.boot == boot and boot:
        return min(size, Extents(sidecar.extents).prefix) if sidecar.extents else size
    return max((length for length, _ in sidecar.proofs if length <= size), default=0)


def write_sidecar(path: str, sidecar: Sidecar) -> None:
    """Write a sidecar, whole or not at all.

    Raises
    ------
    OSError
        Where the disk refuses.
    """
    new = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(new, flags, 0o666)
    try:
        try:
            write_all(handle, json.dumps(asdict(sidecar)).encode())
        finally:
            os.close(handle)
        os.replace(new, path)
    except OSError:
        remove(new)
        raise


def read_sidecar(path: str) -> Sidecar | None:
    """Read a sidecar; None where there is none that can be believed."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            found = json.loads(os.read(handle, _BYTES))
        finally:
            os.close(handle)
        entity = Entity(**found.pop("entity"))
        proofs = tuple((int(length), str(digits)) for length, digits in found.pop("proofs"))
        extents = tuple((int(start), int(stop)) for start, stop in found.pop("extents"))
        sidecar = Sidecar(entity=entity, proofs=proofs, extents=extents, **found)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    texts = (sidecar.version, sidecar.key, sidecar.path, sidecar.boot, entity.url)
    maybe = (entity.etag, entity.modified, entity.weak)
    numbers = (
        *(length for length, _ in proofs),
        *(number for pair in extents for number in pair),
        0 if entity.total is None else entity.total,
    )
    good = all(isinstance(text, str) for text in texts) and all(isinstance(text, str | None) for text in maybe)
    good = good and not any(set(text or "") & set("\r\n\0") for text in maybe)  # they go into a header
    return sidecar if good and all(type(number) is int and number >= 0 for number in numbers) else None
