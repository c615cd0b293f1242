"""Which answer comes next: scripts by path, one for all other paths, and else the file itself."""

from __future__ import annotations

from collections import Counter

from framefetch.warehouse.answers import Scripted, Serve

__all__ = ["Scripts"]

_SERVE = Serve()


class Scripts:
    """Answers in the order in which they are to be given."""

    def __init__(self) -> None:
        self._by_path: dict[str, tuple[Scripted, ...]] = {}
        self._default: tuple[Scripted, ...] = ()
        self._given: Counter[str] = Counter()

    def set(self, path: str | None, answers: tuple[Scripted, ...], then: Scripted | None) -> None:
        """Give a path (None: every path without a script of its own) new answers, beginning with the first."""
        script = (*answers, then) if then is not None else answers
        if path is None:
            self._default = script
            self._given = Counter({known: self._given[known] for known in self._by_path})
        else:
            # Another thread's request sees the old script or the new one, never none.
            self._by_path[path] = script
            self._given[path] = 0

    def next(self, path: str) -> Scripted:
        """Return the next answer of a path; the last one repeats."""
        script = self._by_path.get(path) or self._default
        if not script:
            return _SERVE
        given = self._given[path]
        self._given[path] += 1
        return script[min(given, len(script) - 1)]
