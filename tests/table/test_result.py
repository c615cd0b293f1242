"""Rows out: what would happen to each row of a table, and what did."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from framefetch.errors import FetchFailed, StatusError
from framefetch.models import Digest, Outcome, Receipt, Status, Verified
from framefetch.options import TableOptions
from framefetch.table.ledger import LEVELS, STATUSES, Ledger
from framefetch.table.plan import plan_rows
from framefetch.table.planned import PlannedRows
from framefetch.table.result import FetchResult, Plan, RunFigures

A, B, C = "http://h/a.nwb", "http://h/b.nwb?token=t1", "http://h/c.nwb"
TABLE = pd.DataFrame(
    {"url": [A, None, B, C, A, "http://h/b.nwb?token=t2"], "size": [5, 1, None, 7, None, None]},
    index=pd.MultiIndex.from_tuples([(1, "x"), (1, "x"), (2, "y"), (3, "z"), (1, "x"), (4, "w")], names=["n", "s"]),
)
RECEIPT = Receipt(5, 1, 2, 3, (Digest("sha1", "0" * 40), Digest("md5", "a" * 32)), Verified.LENGTH)


def plan_of(table: pd.DataFrame, **options: Any) -> PlannedRows:
    return plan_rows(table, TableOptions(**options), "v0")


def result_of(table: pd.DataFrame = TABLE) -> FetchResult:
    rows = plan_of(table)
    ledger = Ledger(len(rows.requests))
    ledger.record([Outcome(rows.requests[0], Status.DOWNLOADED, receipt=RECEIPT, attempts=2, seconds=0.5)])
    ledger.record_held(1, RECEIPT, "v0/elsewhere.nwb")
    ledger.record([Outcome(rows.requests[2], Status.FAILED, error=StatusError("expected a file, got 404", status=404))])
    return FetchResult(rows, ledger, "/cache", RunFigures(bytes=5, requests=3, seconds=1.23456))


def test_the_frame_of_a_plan_has_one_row_for_each_row() -> None:
    rows = plan_of(TABLE)
    plan = Plan(rows, np.array([True, False, False]), free_space=1000)
    frame = plan.frame
    assert frame.index.equals(TABLE.index)
    assert frame["status"].tolist() == ["held", "invalid", "to_fetch", "to_fetch", "held", "to_fetch"]
    assert frame["url"].astype(object).where(frame["url"].notna(), None).tolist() == [
        *(A, None, "http://h/b.nwb?token=***", C, A, "http://h/b.nwb?token=***"),
    ]
    assert frame["path"].dropna().tolist() == [f"v0/{name}.nwb" for name in "abcab"]
    assert frame["size"].dtype == "Int64"
    assert frame["size"].fillna(-2).tolist() == [5, -2, -2, 7, 5, -2]
    assert frame["error"].notna().tolist() == [False, True, False, False, False, False]
    assert frame["error"].iloc[1] == "row (1, 'x'), column 'url': expected a URL, but the cell is empty"
    assert plan.notes == ("URLs from column 'url'", "sizes from column 'size'")


def test_words_are_plain_text() -> None:
    """A pandas that keeps what it is given (before 3) would show members of an enumeration, and count them as such."""
    assert {type(word) for word in (*STATUSES, *LEVELS)} == {str}


def test_the_summary_of_a_plan_counts_rows_and_bytes_of_files() -> None:
    plan = Plan(plan_of(TABLE), np.array([True, False, False]), free_space=1000)
    assert plan.summary() == {
        "rows": 6,
        "files": 3,
        "to_fetch": 3,
        "held": 2,
        "failed": 0,
        "invalid": 1,
        "bytes": 7,
        "unknown_sizes": 1,
        "free_space": 1000,
    }


def test_a_file_that_only_refused_rows_ask_for_is_not_to_fetch() -> None:
    rows = plan_of(pd.DataFrame({"url": [A, A, C], "size": [1, 2, 3]}))
    summary = Plan(rows, np.zeros(len(rows.requests), dtype=bool), free_space=0).summary()
    assert (summary["files"], summary["to_fetch"], summary["invalid"], summary["bytes"]) == (1, 1, 2, 3)


def test_frames_of_an_empty_table() -> None:
    rows = plan_of(pd.DataFrame({"url": []}))
    plan = Plan(rows, np.zeros(0, dtype=bool), free_space=0)
    result = FetchResult(rows, Ledger(0), "/cache", RunFigures())
    assert (len(plan.frame), len(result.frame), len(result.ok), result.by_url()) == (0, 0, 0, {})
    assert result.summary()["rows"] == 0
    assert "0</b> rows" in plan._repr_html_()
    result.raise_for_failures()


def test_frames_of_a_table_of_invalid_rows() -> None:
    rows = plan_of(pd.DataFrame({"url": [None, "x"]}, index=["a", "a"]))
    plan = Plan(rows, np.zeros(0, dtype=bool), free_space=0)
    assert plan.frame["status"].tolist() == ["invalid", "invalid"]
    assert plan.frame["url"].iloc[1] == "x"
    result = FetchResult(rows, Ledger(0), "/cache", RunFigures())
    assert result.frame["status"].tolist() == ["invalid", "invalid"]
    assert result.frame["size"].isna().all()
    assert result.frame["verified"].isna().all()
    assert not result.ok.any()


def test_rows_that_share_a_file_share_what_became_of_it() -> None:
    frame = result_of().frame
    assert frame.index.equals(TABLE.index)
    assert list(frame.columns) == [
        *("status", "path", "url", "version", "md5", "size", "verified", "attempts", "seconds", "error_type", "error"),
    ]
    assert frame["status"].tolist() == ["downloaded", "invalid", "cached", "failed", "downloaded", "cached"]
    assert frame["path"].dropna().tolist() == [
        *("/cache/v0/a.nwb", "/cache/v0/elsewhere.nwb", "/cache/v0/a.nwb", "/cache/v0/elsewhere.nwb"),
    ]
    assert frame["md5"].isna().tolist() == [False, True, False, True, False, False]
    assert frame["size"].fillna(-1).tolist() == [5, -1, 5, -1, 5, 5]
    assert frame["verified"].dropna().unique().tolist() == ["length"]
    assert frame["attempts"].tolist() == [2, 0, 0, 0, 2, 0]
    assert frame["error_type"].dropna().tolist() == ["InvalidRow", "StatusError"]
    assert frame["error"].iloc[3] == "expected a file, got 404"
    assert set(frame["version"]) == {"v0"}


def test_ok_selects_what_to_fetch_again() -> None:
    result = result_of()
    assert TABLE[~result.ok]["url"].isna().tolist() == [True, False]
    assert TABLE[~result.ok]["url"].iloc[1] == C
    assert result.paths.notna().tolist() == result.ok.tolist()
    assert result.failed["status"].tolist() == ["invalid", "failed"]


def test_by_url_has_every_url_as_the_table_gives_it() -> None:
    elsewhere = Path("/cache/v0/elsewhere.nwb")
    assert result_of().by_url() == {
        A: Path("/cache/v0/a.nwb"),
        B: elsewhere,
        "http://h/b.nwb?token=t2": elsewhere,
    }


def test_the_summary_of_a_result_counts_rows() -> None:
    assert result_of().summary() == {
        "rows": 6,
        "files": 3,
        "downloaded": 2,
        "cached": 2,
        "failed": 1,
        "invalid": 1,
        "cancelled": 0,
        "bytes": 5,
        "requests": 3,
        "seconds": 1.235,
    }


def test_what_was_not_finished_is_cancelled() -> None:
    rows = plan_of(TABLE)
    result = FetchResult(rows, Ledger(len(rows.requests)), "/cache", RunFigures(interrupted=True))
    assert result.frame["status"].tolist() == ["cancelled", "invalid", *["cancelled"] * 4]
    assert len(result.failed) == 1


def test_raising_names_rows_and_reasons() -> None:
    with pytest.raises(FetchFailed) as caught:
        result_of().raise_for_failures()
    assert str(caught.value).splitlines() == [
        "2 of 6 rows could not be fetched:",
        "  row (1, 'x'), column 'url': expected a URL, but the cell is empty",
        "  row (3, 'z'), http://h/c.nwb: StatusError: expected a file, got 404",
    ]
    assert len(caught.value.frame) == 2  # type: ignore[arg-type]


def test_a_message_names_the_row_and_its_own_url_without_secrets_and_not_at_any_length() -> None:
    long = "http://h/" + "x" * 200 + "/c.nwb"
    urls = ["http://me:pw@h/b.nwb?token=t1", "http://h/b.nwb?token=t2", long]
    rows = plan_of(pd.DataFrame({"url": urls}, index=np.array([7, 8, 9])))
    ledger = Ledger(len(rows.requests))
    gone = StatusError("gone", status=410)
    ledger.record([Outcome(rows.requests[file], Status.FAILED, error=gone) for file in (0, 1)])
    result = FetchResult(rows, ledger, "/cache", RunFigures())
    assert result.messages(2) == [
        "row 7, http://h/b.nwb?token=***: gone",
        "row 8, http://h/b.nwb?token=***: gone",
    ]
    shortened = result.messages(3)[2].removeprefix("row 9, ").removesuffix(": gone")
    assert len(shortened) == 100
    assert shortened.startswith("http://h/xxx")
    assert "xxx…xxx" in shortened
    assert shortened.endswith("xxx/c.nwb")


def test_raising_names_the_first_ten() -> None:
    rows = plan_of(pd.DataFrame({"url": [None] * 25}))
    with pytest.raises(FetchFailed, match=r"25 of 25 rows could not be fetched:(.*\n){11}  … and 15 more$"):
        FetchResult(rows, Ledger(0), "/cache", RunFigures()).raise_for_failures()


def test_a_copy_shares_what_became_of_its_original() -> None:
    rows = plan_of(pd.DataFrame({"url": [A, A], "p": ["x", "y"]}), path_template="{p}")
    ledger = Ledger(2)
    ledger.record([Outcome(rows.requests[0], Status.FAILED, error=StatusError("gone", status=410), attempts=3)])
    ledger.share(0, 1)
    frame = FetchResult(rows, ledger, "/cache", RunFigures()).frame
    assert frame["status"].tolist() == ["failed", "failed"]
    assert frame["error"].tolist() == ["gone", "gone"]
    assert frame["attempts"].tolist() == [3, 3]
    assert not ledger.holds(1)


def test_html_escapes_cells_and_shows_figures() -> None:
    rows = plan_of(pd.DataFrame({"url": ["<script>alert(1)</script>"] * 30}))
    html = Plan(rows, np.zeros(len(rows.requests), dtype=bool), free_space=0)._repr_html_()
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    assert "<b>30</b> invalid" in html
    assert "… and 10 more rows" in html


def test_repr_shows_the_figures_that_matter() -> None:
    assert repr(result_of()) == (
        "FetchResult(rows=6, files=3, downloaded=2, cached=2, failed=1, invalid=1, bytes=5, requests=3, seconds=1.235)"
    )


@pytest.mark.parametrize("rows", [slice(0, 6), slice(0, 1), slice(1, 2), slice(3, 4), slice(0, 0)])
@pytest.mark.parametrize("labels", [TABLE.index, None], ids=["labels", "range"])
def test_the_types_of_the_columns_are_the_same_whatever_happened(rows: slice, labels: pd.MultiIndex | None) -> None:
    text = pd.Series(["text"]).dtype  # str, and before pandas 3 object
    table = (TABLE if labels is not None else TABLE.reset_index(drop=True))[rows]
    planned = plan_of(table)
    ledger = Ledger(len(planned.requests))
    if rows == slice(3, 4):
        ledger.record([Outcome(planned.requests[0], Status.FAILED, error=StatusError("404", status=404))])
    elif rows != slice(1, 2):
        ledger.record([Outcome(request, Status.CACHED, receipt=RECEIPT) for request in planned.requests])
    result = FetchResult(planned, ledger, "/cache", RunFigures())
    numbers = {"size": "Int64", "attempts": "int64", "seconds": "float64"}
    assert dict(result.frame.dtypes) == {
        name: pd.api.types.pandas_dtype(numbers.get(name, text)) for name in result.frame
    }
    assert len(result.frame.columns) == 11
    assert result.paths.dtype == text
    assert result.paths.index.equals(table.index)
    plan = Plan(planned, np.zeros(len(planned.requests), dtype=bool), free_space=0)
    assert dict(plan.frame.dtypes) == {name: pd.api.types.pandas_dtype(numbers.get(name, text)) for name in plan.frame}
