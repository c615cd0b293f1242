"""What every engine does, and what it is given to do it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from framefetch.models import Outcome, Requests
    from framefetch.options import Options
    from framefetch.sources.base import Meter, Source
    from framefetch.store.files import FileStore

__all__ = ["Engine", "Sink", "Tools"]

#: Takes outcomes as they come; called on the engine's loop, must not block.
Sink: TypeAlias = "Callable[[Sequence[Outcome]], None]"


@dataclass(frozen=True, slots=True)
class Tools:
    """What an engine works with.

    Parameters
    ----------
    sources : mapping of str to Source
        By URL scheme.
    files : FileStore
        Where files are written.
    options : Options
        Limits, retry policy and transfer options.
    meter : Meter
        Where the cost is counted.
    take : callable
        Asked when a file's turn comes; False where it is not to be fetched after all, as another process does; None
        where that will turn out soon.
    """

    sources: Mapping[str, Source]
    files: FileStore
    options: Options
    meter: Meter
    take: Callable[[int], bool | None]


class Engine(Protocol):
    """Fetches the files of a plan."""

    async def run(self, requests: Requests, tools: Tools, sink: Sink) -> None:
        """Fetch every file that `requests.queues` names and `tools.take` grants; hand an outcome of each to the sink.

        A file that cannot be fetched is an outcome. When cancelled it stops within two seconds; files without an
        outcome were not finished.

        Raises
        ------
        FramefetchError
            A fatal one, after which no other file can succeed either.
        """
        ...
