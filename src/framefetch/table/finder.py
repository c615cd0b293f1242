"""Which row of a table a single URL means."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, TypeAlias

from framefetch.errors import InvalidRow, PlanError
from framefetch.table.addresses import AddressReader
from framefetch.urls import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import pandas as pd

    from framefetch.table.planned import PlannedRows

__all__ = ["RowFinder"]

#: A table, its shape when it was planned, the plan, and its rows by URL.
_Known: TypeAlias = "tuple[pd.DataFrame, tuple[int, ...], PlannedRows | None, dict[str, int]]"


class RowFinder:
    """Finds rows by their URLs; the table is planned for the first of them, and again where it has changed.

    Parameters
    ----------
    plan : callable
        Plans a table.
    base_url : str or None
        Completes what has no host.
    schemes : collection of str
        The schemes that can be fetched.
    """

    def __init__(
        self, plan: Callable[[pd.DataFrame], PlannedRows], base_url: str | None, schemes: Collection[str]
    ) -> None:
        self._plan = plan
        self._reader = AddressReader(base_url, schemes)
        self._known: _Known | None = None
        self._planning, self._pid = threading.Lock(), os.getpid()

    def find(self, table: pd.DataFrame, url: object) -> tuple[PlannedRows, int, str] | None:
        """Return the plan of a table with the row that names a URL, and that URL whole; None where no row does."""
        try:
            address, *_ = self._reader.read(url)
        except InvalidRow:
            if not isinstance(url, str):
                return None
            address = url
        found = self._look_for(table, address)
        if found is not None and not self._is_still(table, *found):
            self.forget()
            found = self._look_for(table, address)
        return None if found is None else (*found, address)

    def forget(self) -> None:
        """Plan the table anew for the next URL."""
        self._known = None

    def _look_for(self, table: pd.DataFrame, address: str) -> tuple[PlannedRows, int] | None:
        if self._pid != os.getpid():  # a thread of the parent's may have held it
            self._planning, self._pid = threading.Lock(), os.getpid()
        with self._planning:  # who comes meanwhile waits: without the table nobody knows what a file must be
            known = self._known
            if known is None or known[0] is not table or known[1] != table.shape:
                self._known = known = self._plan_all(table)
        *_, planned, rows = known
        row = rows.get(redact(address))
        return None if planned is None or row is None else (planned, row)

    def _plan_all(self, table: pd.DataFrame) -> _Known:
        try:
            planned = self._plan(table)
        except PlanError:
            return table, table.shape, None, {}  # a table without URLs: every file is fetched by itself
        return table, table.shape, planned, planned.rows_by_url()

    def _is_still(self, table: pd.DataFrame, planned: PlannedRows, row: int) -> bool:
        """Return whether a row states nothing by now that was not known when the table was planned."""
        try:
            now, file = self._plan(table.iloc[[row]]), int(planned.files[row])
        except PlanError:  # its columns have other names by now
            return False
        if file < 0 or now.files[0] < 0:
            return False  # why it cannot be used may be another row, or be mended by now
        before, states = planned.requests[file], now.requests[0]
        # A row whose file another one names first has the name that the other's URL gives.
        same = before.key == states.key and (before.path == states.path or row in planned.aliases)
        return same and set(states.digests) <= set(before.digests) and states.size in (None, before.size)
