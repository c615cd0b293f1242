"""Which row of a table a single URL means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framefetch.errors import InvalidRow, PlanError
from framefetch.table.addresses import AddressReader
from framefetch.urls import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import pandas as pd

    from framefetch.table.planned import PlannedRows

__all__ = ["RowFinder"]


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
        self._planned: PlannedRows | None = None
        self._rows: dict[str, int] = {}
        self._shape: tuple[int, ...] | None = None

    def find(self, table: pd.DataFrame, url: str) -> tuple[PlannedRows, int, str] | None:
        """Return the plan of a table with the row that names a URL, and that URL whole; None where no row does."""
        try:
            address, *_ = self._reader.read(url)
        except InvalidRow:
            address = url
        found = self._look_for(table, address)
        if found is not None and not self._is_still(table, *found):
            self.forget()
            found = self._look_for(table, address)
        return None if found is None else (*found, address)

    def forget(self) -> None:
        """Plan the table anew for the next URL."""
        self._shape = None

    def _look_for(self, table: pd.DataFrame, address: str) -> tuple[PlannedRows, int] | None:
        if self._shape != table.shape:
            self._planned, self._rows, self._shape = None, {}, table.shape
            try:
                self._planned = self._plan(table)
            except PlanError:
                pass  # a table without URLs: every file is fetched by itself
            else:
                self._rows = self._planned.rows_by_url()
        row = self._rows.get(redact(address))
        return None if self._planned is None or row is None else (self._planned, row)

    def _is_still(self, table: pd.DataFrame, planned: PlannedRows, row: int) -> bool:
        """Return whether a row states nothing by now that was not known when the table was planned."""
        now, file = self._plan(table.iloc[[row]]), int(planned.files[row])
        if file < 0 or now.files[0] < 0:
            return False  # why it cannot be used may be another row, or be mended by now
        before, states = planned.requests[file], now.requests[0]
        same = (before.key, before.path) == (states.key, states.path)
        return same and set(states.digests) <= set(before.digests) and states.size in (None, before.size)
