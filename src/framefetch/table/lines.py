"""Many texts looked at as the lines of one: a regular expression is begun once, not for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

__all__ = ["all_match"]


def all_match(lines: re.Pattern[str], texts: Sequence[str]) -> bool:
    """Return whether a pattern of lines, each ended by a line feed, matches all of these texts.

    A text with a line feed of its own is no line, and never matches.
    """
    joined = "\n".join(texts) + "\n"
    return joined.count("\n") == len(texts) and lines.fullmatch(joined) is not None
