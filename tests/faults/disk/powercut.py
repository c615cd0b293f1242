"""What a disk may hold after a power cut, built from the calls that a real run made.

A call counts as safe when a sync that covers it had returned before the cut. Of the others anything may be there:

- changes of names (create, link, rename, unlink, mkdir) reach the disk in their order, up to any of them;
- bytes reach it or not, page by page, each file by itself; a file may have its length before its bytes, and then reads
  as zeros, or have its name before its length.

So a rename may survive the bytes of its file, as on ext4 without its heuristics and on XFS. Times are kept as they were
recorded: a file that lost its bytes looks as if nothing had happened.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

PAGE: Final = 4096
NAMES: Final = frozenset({"create", "link", "rename", "unlink", "mkdir"})


@dataclass(frozen=True)
class Call:
    """One call, with the file it was made on: its number in the order of creation, or the path of a folder."""

    op: str
    file: int | str | None
    offset: int
    data: bytes
    a: str
    b: str


def read_log(path: Path) -> Iterator[tuple[str, int, int, bytes, str, str]]:
    """Yield the calls as the shim wrote them down."""
    log, at = path.read_bytes(), 0
    while at < len(log):
        end = log.index(b"\n", at)
        op, fd, offset, length, a, b = log[at:end].decode().split("\t")
        at = end + 1
        data = log[at : at + int(length)]
        at += int(length)
        yield op, int(fd), int(offset), data, a, b


def follow(logs: Sequence[Path]) -> list[Call]:
    """Return the calls of several processes, one after the other, each with the file it was made on."""
    calls: list[Call] = []
    files: dict[str, int] = {}
    created = 0
    for log in logs:
        open_files: dict[int, int | str] = {}
        for op, fd, offset, data, a, b in read_log(log):
            if op == "create":
                files[a], created = created, created + 1
            if op in ("create", "open"):
                open_files[fd] = files.get(a, a)
            elif op == "rename":
                files[b] = files.pop(a)
            elif op == "link":
                files[b] = files[a]
            elif op == "unlink":
                files.pop(a)
            if op not in ("open", "close"):
                calls.append(Call(op, open_files.get(fd), offset, data, a, b))
    return calls


@dataclass
class State:
    """What is on the disk: names, bytes by file, and folders."""

    names: dict[str, int]
    contents: dict[int, bytes]
    folders: list[str]

    def fingerprint(self) -> bytes:
        found = hashlib.blake2b(repr((sorted(self.names.items()), self.folders)).encode())
        for file in sorted(set(self.names.values())):
            found.update(b"%d:%d:" % (file, len(self.contents.get(file, b""))) + self.contents.get(file, b""))
        return found.digest()

    def build(self, root: Path, times: Mapping[int, int]) -> None:
        """Make it so, in an empty place; files get the times that they had."""
        root.mkdir()
        for folder in self.folders:
            (root / folder.lstrip("/")).mkdir(exist_ok=True)
        for path, file in self.names.items():
            target = root / path.lstrip("/")
            target.write_bytes(self.contents.get(file, b""))
            if file in times:
                os.utime(target, ns=(times[file], times[file]))


#: Of one file: its name, what was safe, what would be there without the cut -> what is there.
Fate = Callable[[str, bytes, bytes], bytes]


def kept(_: str, __: bytes, new: bytes) -> bytes:
    return new


def lost(_: str, safe: bytes, __: bytes) -> bytes:
    return safe


def zeroed(_: str, safe: bytes, new: bytes) -> bytes:
    """Its length has reached the disk, its bytes have not."""
    return safe[: len(new)].ljust(len(new), b"\0")


def torn(chance: random.Random) -> Fate:
    """Some of its pages have, and perhaps not all of its length."""

    def fate(path: str, safe: bytes, new: bytes) -> bytes:
        old = zeroed(path, safe, new)
        size = len(new) if chance.random() < 0.7 else chance.randint(min(len(safe), len(new)), len(new))
        pages = ((new if chance.random() < 0.5 else old)[at : at + PAGE] for at in range(0, max(len(new), 1), PAGE))
        return b"".join(pages)[:size]

    return fate


@dataclass
class History:
    """The calls of a run, and what any power cut in it may leave."""

    calls: list[Call]
    #: Paths that files have in the end, by which their times are known.
    ends: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ends = self.at(len(self.calls), kept).names

    @property
    def syncs(self) -> list[int]:
        """The calls after which everything before them is safe."""
        return [at for at, call in enumerate(self.calls) if call.op == "syncfs"]

    def at(self, cut: int, fate: Fate, names: float = 1.0) -> State:
        """Return what may be there after a cut behind so many calls.

        `names` is the share of the changes of names since the last safe one that have reached the disk.
        """
        calls = self.calls[:cut]
        safe_names, safe_bytes = self._safe(calls)
        changes = [at for at, call in enumerate(calls) if call.op in NAMES]
        pending = [at for at in changes if at >= safe_names]
        last = len(changes) - len(pending) + round(names * len(pending))
        found, folders = {}, []
        for at in changes[:last]:
            self._rename(calls[at], at, found, folders)
        numbers = {at: number for number, at in enumerate(at for at, call in enumerate(calls) if call.op == "create")}
        named = {path: numbers[at] for path, at in found.items()}
        paths = {file: path for path, file in named.items()}
        contents = {
            file: self._content(calls, file, safe_bytes.get(file, 0), partial(fate, path))
            for file, path in paths.items()
        }
        return State(named, contents, folders)

    @staticmethod
    def _rename(call: Call, at: int, names: dict[str, int], folders: list[str]) -> None:
        """Make one change of names; a file is known by the call that created it."""
        if call.op == "create":
            names[call.a] = at
        elif call.op == "mkdir":
            folders.append(call.a)
        elif call.op == "unlink":
            names.pop(call.a)
        else:
            names[call.b] = names[call.a]
            if call.op == "rename":
                del names[call.a]

    @staticmethod
    def _safe(calls: Sequence[Call]) -> tuple[int, dict[int, int]]:
        """Return before which call names are safe, and for each file before which call its bytes are."""
        names, files = 0, {}
        written: set[int] = set()
        changed: dict[str, int] = {}
        for at, call in enumerate(calls):
            if isinstance(call.file, int):
                written.add(call.file)
            if call.op in NAMES:
                for path in filter(None, (call.a, call.b)):
                    changed[path.rpartition("/")[0]] = at + 1
            if call.op == "syncfs":
                names = at
                files = dict.fromkeys(written, at)
            elif call.op == "sync":
                if isinstance(call.file, int):
                    files[call.file] = at
                else:  # a folder: its latest change, and all changes before that one
                    names = max(names, changed.get(str(call.file), 0))
        return names, files

    @staticmethod
    def _content(calls: Sequence[Call], file: int, safe_before: int, fate: Callable[[bytes, bytes], bytes]) -> bytes:
        safe, now = bytearray(), bytearray()
        touched = False
        for at, call in enumerate(calls):
            if call.file != file or call.op not in ("write", "size"):
                continue
            for content in (safe, now) if at < safe_before else (now,):
                if call.op == "size":
                    del content[call.offset :]
                    content.extend(bytes(call.offset - len(content)))
                else:
                    content.extend(bytes(max(0, call.offset - len(content))))
                    content[call.offset : call.offset + len(call.data)] = call.data
            touched = touched or at >= safe_before
        return fate(bytes(safe), bytes(now)) if touched else bytes(now)

    def states(self, seeds: int, wanted: Callable[[str], bool]) -> Iterator[tuple[str, int, State]]:
        """Yield what may be there, cut by cut: in words, behind how many calls, and the state; none twice."""
        seen: set[bytes] = set()
        for cut in range(1, len(self.calls) + 1):
            chance = random.Random(cut)
            ways: list[tuple[str, Fate, float]] = [
                ("nothing lost", kept, 1.0),
                ("all lost that was not synced", lost, 0.0),
                ("names without bytes", lost, 1.0),
                ("names and lengths without bytes", zeroed, 1.0),
                ("bytes without names", kept, 0.0),
                ("rows without the bytes of their files", apart(kept, zeroed), 1.0),
                ("rows without the lengths of their files", apart(kept, lost), 1.0),
                ("files without rows", apart(lost, kept), 1.0),
            ]
            for seed in range(seeds):
                ways.append((f"torn {seed}", torn(chance), chance.choice([1.0, chance.random()])))
                ways.append((f"mixed {seed}", mixed(chance), chance.choice([1.0, chance.random()])))
            before = self.calls[cut - 1]
            for way, fate, names in ways:
                words = f"cut behind call {cut} ({before.op} {before.a or before.file}), {way}"
                if not wanted(words):
                    continue
                state = self.at(cut, fate, names)
                if (mark := state.fingerprint()) not in seen:
                    seen.add(mark)
                    yield words, cut, state


def mixed(chance: random.Random) -> Fate:
    """Each file has a fate of its own."""
    fates = (kept, lost, zeroed, torn(chance))

    def fate(path: str, safe: bytes, new: bytes) -> bytes:
        return chance.choice(fates)(path, safe, new)

    return fate


def apart(database: Fate, others: Fate) -> Fate:
    """What SQLite wrote has one fate, what the files of the table have another."""

    def fate(path: str, safe: bytes, new: bytes) -> bytes:
        return (database if "manifest" in path else others)(path, safe, new)

    return fate
