"""What is fetched and what is asked for: the workloads by letter and name, and their targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

KIB, MIB = 1 << 10, 1 << 20

#: How the server answers: at once, late, each connection slowly, wrongly now and then, or from far away.
PLAIN, LATE, PACED, FAULTY, DISTANT = "plain", "late", "paced", "faulty", "distant"

#: Ratios asked for: what native peers must give and are aimed at, and what Python peers must give.
Targets = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Workload:
    """Files to fetch by every peer.

    Parameters
    ----------
    count, size : int
        So many files of so many bytes; a size of 0 is the mix of real sizes, and `count` the first so many of it.
    targets : tuple of float, optional
        Peer's wall time divided by framefetch's: native peers must, native peers aim, Python peers must.
    serving : str
        How the server answers.
    tls : bool
        Whether it is encrypted.
    warm : bool
        Whether everything is held already.
    tuned_as : str
        The workload whose best settings are used; its own where empty.
    alone : bool
        Whether only framefetch runs, compared with its own run of another workload.
    far_disk : bool
        Whether files are fetched onto a disk that is far away.
    """

    letter: str
    name: str
    count: int
    size: int
    targets: Targets | None = None
    serving: str = PLAIN
    tls: bool = False
    warm: bool = False
    tuned_as: str = ""
    alone: bool = False
    far_disk: bool = False

    @property
    def tuned(self) -> str:
        """The name under which the best settings are kept."""
        return self.tuned_as or self.name

    @property
    def says(self) -> str:
        """Say what it is in words."""
        what = f"{self.count:,} files of {_size(self.size)}" if self.size else f"a real mix of {self.count:,} files"
        how = {
            PLAIN: "",
            LATE: ", 50 ms to the first byte",
            PACED: ", 20 MB/s a connection",
            FAULTY: ", 2 % of answers 503, 1 % cut short, 1 % stalled",
            DISTANT: ", 80 ms there and back",
        }[self.serving]
        more = {
            ", over TLS": self.tls,
            ", all held already": self.warm,
            ", onto a disk that is far away": self.far_disk,
        }
        return what + how + "".join(text for text, is_so in more.items() if is_so)


@dataclass(frozen=True, slots=True)
class Probe:
    """Something that framefetch does alone."""

    letter: str
    name: str
    count: int
    says: str


MIX = 2_377
WORKLOADS = (
    Workload("a", "small", 20_000, 8 * KIB, (0.7, 1.0, 4.0)),
    Workload("b", "large", 200, 8 * MIB, (1.1, 1.3, 3.5)),
    Workload("c", "huge", 2, 1024 * MIB, (1.0, 1.2, 3.0)),
    Workload("d", "late", 20_000, 8 * KIB, (0.8, 1.0, 3.0), LATE),
    Workload("e", "paced", 2, 512 * MIB, (1.0, 1.2, 1.3), PACED),
    Workload("f", "mix", MIX, 0, (1.0, 1.3, 4.0)),
    Workload("g", "faulty", MIX, 0, None, FAULTY, alone=True),
    Workload("h", "warm", MIX, 0, (3.0, 3.0, 3.0), warm=True, tuned_as="mix"),
    Workload("jb", "tls-large", 200, 8 * MIB, (1.0, 1.3, 4.0), tls=True, tuned_as="large"),
    Workload("jd", "tls-late", 20_000, 8 * KIB, (1.0, 1.3, 4.0), LATE, tls=True, tuned_as="late"),
    Workload("k", "distant", 5_000, 8 * KIB, None, DISTANT, tls=True, tuned_as="late"),
    Workload("l", "far-disk", 2_000, 8 * KIB, far_disk=True),
)
PROBES = (
    Probe("i", "plan", 1_000_000, "rows planned in one process: memory above the table, seconds"),
    Probe("i", "held", 1_000_000, "files held already: a second run"),
    Probe("", "limits", 4, "rows meet each fault of the network, all at once: does each end in time?"),
    Probe("", "growth", 1_000_000, "rows at most: what a row costs, planned, held and fetched, as they become more"),
    Probe("", "commit", 1_000_000, "entries in the manifest or a thousand: what a commit window costs"),
    Probe("", "restart", 100_000, "files held, and a mirror of more that was killed: when does the next one go on?"),
    Probe(
        "",
        "rates",
        5_000,
        "small files, then 64 large ones, with 16 connections: how fast, start-up left out",
    ),
    Probe(
        "d",
        "defaults",
        20_000,
        "files of 8 KiB, 50 ms to the first byte: native peers with no knob turned either",
    ),
    Probe("", "adaptive", 100, "per cent of each workload: the default against the best fixed number of connections"),
)
#: Where every fetch is asked to be light: CPU seconds against the better of these, start-up taken off.
CPU_WORKLOAD, CPU_PEERS, CPU_FACTOR = "large", ("curl", "wget2"), 1.25
#: framefetch at its default must reach this share of its own best fixed number of connections.
ADAPTIVE_SHARE = 0.9

_QUICK = {
    "small": (500, 8 * KIB),
    "large": (8, 8 * MIB),
    "huge": (2, 16 * MIB),
    "late": (300, 8 * KIB),
    "paced": (2, 8 * MIB),
    "mix": (60, 0),
    "faulty": (60, 0),
    "warm": (60, 0),
    "tls-large": (8, 8 * MIB),
    "tls-late": (300, 8 * KIB),
    "distant": (300, 8 * KIB),
    "far-disk": (100, 8 * KIB),
}
#: Enough to tell one setting from another.
_SWEEP = {
    "small": (5_000, 8 * KIB),
    "large": (64, 8 * MIB),
    "huge": (2, 256 * MIB),
    "late": (4_000, 8 * KIB),
    "paced": (2, 64 * MIB),
    "mix": (400, 0),
    "far-disk": (400, 8 * KIB),
}
_QUICK_PROBES = {
    "plan": 50_000,
    "held": 2_000,
    "limits": 2,
    "growth": 10_000,
    "commit": 20_000,
    "restart": 500,
    "rates": 200,
    "defaults": 300,
    "adaptive": 2,
}


def quick(work: Workload | Probe) -> Workload | Probe:
    """Return little of a workload: whether it works can be seen, how fast it is cannot."""
    if isinstance(work, Probe):
        return replace(work, count=_QUICK_PROBES[work.name])
    return _scaled(work, _QUICK)


def for_sweep(work: Workload) -> Workload:
    """Return as much of a workload as a sweep needs."""
    return _scaled(work, _SWEEP)


def _scaled(work: Workload, sizes: dict[str, tuple[int, int]]) -> Workload:
    count, size = sizes[work.name]
    return replace(work, count=count, size=size)


def _size(size: int) -> str:
    return f"{size // MIB:,} MiB" if size % MIB == 0 else f"{size / KIB:,.0f} KiB"
