"""A table of files goes in; verified files and a table come out.

>>> from framefetch import MetadataCache
>>> cache = MetadataCache("big_table.csv", "data/cache")  # doctest: +SKIP
>>> result = await cache.fetch_all(cache.dataframe.query("age_in_days > 90"))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from framefetch.errors import (
    FetchFailed,
    FramefetchError,
    InvalidRow,
    ManifestError,
    PlanError,
    StorageError,
    TransferError,
)
from framefetch.models import Digest, Link, Status, Verified
from framefetch.options import Limits, Options, RetryPolicy, TableOptions, Timeouts, TransferOptions

if TYPE_CHECKING:
    from framefetch.cache import MetadataCache
    from framefetch.table.result import FetchResult, Plan
    from framefetch.ui.progress import Progress

__version__ = "0.1.0"

__all__ = [
    "Digest",
    "FetchFailed",
    "FetchResult",
    "FramefetchError",
    "InvalidRow",
    "Limits",
    "Link",
    "ManifestError",
    "MetadataCache",
    "Options",
    "Plan",
    "PlanError",
    "Progress",
    "RetryPolicy",
    "Status",
    "StorageError",
    "TableOptions",
    "Timeouts",
    "TransferError",
    "TransferOptions",
    "Verified",
]

# pandas takes a third of a second to import; `framefetch --help` and `framefetch status` do not need it.
_LATE = {
    "FetchResult": "framefetch.table.result",
    "MetadataCache": "framefetch.cache",
    "Plan": "framefetch.table.result",
    "Progress": "framefetch.ui.progress",
}


def __getattr__(name: str) -> Any:
    """Import the heavy names when they are first used (PEP 562)."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
