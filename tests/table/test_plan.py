"""A DataFrame becomes a plan: as many rows out as in, each with a file or a reason."""

import itertools
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framefetch.errors import InvalidRow, PlanError, UnsafePath
from framefetch.options import TableOptions
from framefetch.table.naming import fold
from framefetch.table.plan import plan_rows
from framefetch.table.planned import PlannedRows
from framefetch.urls import redact

CANARY = "c4n4ry5ecret"
MD5 = {letter: letter * 32 for letter in "abcdef"}


def planned(table: pd.DataFrame, **options: Any) -> PlannedRows:
    return plan_rows(table, TableOptions(**options), "v0")


def urls_table(*cells: Any, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"url": pd.Series(list(cells), dtype=object), **columns})


def paths(rows: PlannedRows) -> list[str | None]:
    return [rows.requests.path(file) if file >= 0 else None for file in rows.files.tolist()]


def reasons(rows: PlannedRows) -> dict[int, str]:
    return {position: str(error) for position, error in sorted(rows.errors.items())}


def test_a_row_becomes_a_request() -> None:
    table = urls_table("https://me:pw@h/a/1085755199?token=x&v=2 http://m/b", md5=MD5["a"], size=7)
    rows = planned(table)
    request = rows.requests[0]
    assert request.version == "v0"
    assert request.key == "https://h/a/1085755199?token=***&v=2"
    assert request.urls == ("https://me:pw@h/a/1085755199?token=x&v=2", "http://m/b")
    assert request.path == "v0/1085755199.nwb"
    assert request.size == 7
    assert [str(digest) for digest in request.digests] == [f"md5:{MD5['a']}"]
    assert rows.notes == ("URLs from column 'url'", "md5 from column 'md5'", "sizes from column 'size'")


@pytest.mark.parametrize("table", [pd.DataFrame(), pd.DataFrame({"url": []}), pd.DataFrame({"url": [], "md5": []})])
@pytest.mark.parametrize("options", [{}, {"path_template": "{url}"}])
def test_an_empty_table_is_an_empty_plan(table: pd.DataFrame, options: dict[str, str]) -> None:
    if options and not len(table.columns):
        with pytest.raises(PlanError, match="names the column 'url'"):
            planned(table, **options)
        return
    rows = planned(table, **options)
    assert (len(rows.files), len(rows.requests), rows.errors) == (0, 0, {})
    assert dict(rows.requests.queues()) == {}


INDEXES = {
    "range": pd.RangeIndex(5, 8),
    "duplicates": pd.Index(["x", "x", "x"]),
    "multi": pd.MultiIndex.from_tuples([(1, "a"), (1, "a"), (2, "b")], names=["id_0", "id_1"]),
    "dates": pd.to_datetime(["2020-01-01", "2020-01-02", None]),
    "floats": pd.Index([1.5, float("nan"), 2.0]),
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=list(INDEXES))
def test_any_index_is_kept_and_named_in_reasons(index: pd.Index) -> None:
    table = urls_table("http://h/a.nwb", None, "http://h/b.nwb").set_index(index)
    rows = planned(table)
    assert rows.index.equals(index)
    assert rows.files.tolist() == [0, -1, 1]
    assert list(rows.errors) == [1]


@pytest.mark.parametrize(
    ("index", "label"),
    [
        (INDEXES["range"], "6"),
        (INDEXES["duplicates"], "'x'"),
        (INDEXES["multi"], "(1, 'a')"),
        (INDEXES["dates"], "Timestamp('2020-01-02 00:00:00')"),
        (INDEXES["floats"], "nan"),
    ],
)
def test_a_reason_names_row_column_and_value(index: pd.Index, label: str) -> None:
    table = urls_table("http://h/a.nwb", "ftp://h/b.nwb", "http://h/b.nwb").set_index(index)
    expected = f"row {label}, column 'url': expected a URL with one of the schemes http, https, got 'ftp://h/b.nwb'"
    assert reasons(planned(table)) == {1: expected}


@pytest.mark.parametrize(
    ("columns", "options", "reason"),
    [
        ({"md5": ["nan"]}, {}, "column 'md5': expected the 32 hex digits of a md5 digest, got 'nan'"),
        ({"etag": ["a" * 32 + "-1"]}, {"md5_column": "etag"}, "column 'etag': expected the 32 hex digits"),
        ({"size": [-5]}, {}, "column 'size': expected a size in whole bytes, got '-5'"),
        ({"size": ["12 kB"]}, {}, "column 'size': expected a size in whole bytes, got '12 kB'"),
        ({"k": [None]}, {"key_column": "k"}, "column 'k': expected a key, but the cell is empty"),
        ({"k": [["a"]]}, {"key_column": "k"}, "column 'k': expected text or a number, got list"),
        ({"p": ["/etc/a"]}, {"path_template": "{p}"}, "column 'path template': expected a path below the cache"),
        ({"p": ["a/../b"]}, {"path_template": "{p}"}, "'a/../b' with '.' or '..' in it"),
        ({"p": [None]}, {"path_template": "{p}"}, "column 'p': expected a value for the path template"),
        ({"p": [float("nan")]}, {"url_template": "http://h/{p}"}, "column 'p': expected a value for the URL template"),
    ],
)
def test_bad_cells_refuse_their_row_only(columns: dict[str, Any], options: dict[str, str], reason: str) -> None:
    bad = {"url": "http://h/bad.nwb", **{name: values[0] for name, values in columns.items()}}
    good = {"url": "http://h/good.nwb", "md5": None, "etag": None, "size": None, "k": "key", "p": "sub/good.nwb"}
    table = pd.DataFrame([bad, {name: good[name] for name in bad}], index=["bad", "good"], dtype=object)
    rows = planned(table, **options)
    assert list(reasons(rows)) == [0]
    assert reasons(rows)[0].startswith("row 'bad', column ")
    assert reason in reasons(rows)[0]
    assert rows.files.tolist() == [-1, 0]


def test_an_invalid_row_still_shows_its_url() -> None:
    rows = planned(urls_table(f"http://h/a?token={CANARY}", None, ["http://h", 5], md5=["x", None, None]))
    assert rows.texts == {0: "http://h/a?token=***", 2: "['http://h', 5]"}


def test_no_secret_is_in_keys_reasons_or_texts() -> None:
    url = f"https://me:{CANARY}@h/a.nwb?sig={CANARY}"
    table = urls_table(
        url, url, f" {url} ftp://u:{CANARY}@h", f"u:{CANARY}@h", url.encode(), k=[url, "k", "l", "m", "n"]
    )
    table["md5"] = ["a" * 32, "b" * 32, None, None, None]
    for options in ({}, {"key_column": "k"}, {"path_template": "{k!q}"}):
        rows = planned(table, **options)
        assert CANARY not in repr([str(error) for error in rows.errors.values()])
        assert CANARY not in repr(rows.texts)
        assert CANARY not in repr(rows.requests.keys)


def test_one_url_twice_is_one_file() -> None:
    rows = planned(
        urls_table("http://h/a", "http://h/b", "http://h/a", md5=[None, None, MD5["a"]], size=[3, None, None])
    )
    assert rows.files.tolist() == [0, 1, 0]
    assert rows.requests[0].size == 3
    assert rows.requests[0].digests[0].hex == MD5["a"]
    assert rows.requests[1].digests == ()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"md5": [MD5["a"], MD5["b"], MD5["c"]]}, "its md5 digest differs from that of another row of the same file"),
        ({"size": [1, 2, 3]}, "its size differs from that of another row of the same file"),
    ],
)
def test_rows_of_one_file_that_contradict_each_other_are_all_refused(columns: dict[str, Any], reason: str) -> None:
    rows = planned(urls_table("http://h/a", "http://h/b", "http://h/a", **columns))
    assert rows.files.tolist() == [-1, rows.files[1], -1]
    assert list(rows.errors) == [0, 2]
    assert all(reason in text and text.endswith(": http://h/a") for text in reasons(rows).values())


def test_two_columns_that_contradict_each_other_refuse_the_row() -> None:
    table = urls_table("http://h/a", md5=MD5["a"], digest=f"md5:{MD5['b']}")
    assert (
        f"expected one md5 digest, got {MD5['a']} and {MD5['b']}" in reasons(planned(table, digest_column="digest"))[0]
    )


def test_a_link_signed_anew_is_the_same_file_and_keeps_its_own_url() -> None:
    first, second = "http://h/a?Expires=1&Signature=x", "http://h/a?Expires=2&Signature=y"
    rows = planned(urls_table(first, second, "http://h/b"))
    assert rows.files.tolist() == [0, 0, 1]
    assert rows.requests[0].urls == (first,)
    assert rows.aliases == {1: second}


def test_keys_tell_files_apart_or_together() -> None:
    table = urls_table("http://h/1/x.nwb?s=1", "http://h/1/x.nwb?s=2", "http://h/1/x.nwb?s=1", id=[7.0, 7.0, 8.0])
    rows = planned(table, key_column="id", path_template="{id}.nwb")
    assert rows.files.tolist() == [0, 0, 1]
    assert list(rows.requests.keys) == ["7", "8"]
    assert rows.aliases == {1: "http://h/1/x.nwb?s=2"}


@pytest.mark.parametrize("options", [{}, {"path_template": "{n}.nwb"}])
def test_rows_of_one_key_that_lead_elsewhere_are_all_refused(options: dict[str, str]) -> None:
    cells = ["http://h/a?s=1", f"http://me:{CANARY}@h/b?token={CANARY}", "http://h/c", "http://h/a?s=2", "http://h/b"]
    table = urls_table(*cells, id=[7, 7, 8, 7, 9], n=[0, 1, 2, 3, 4], md5=[MD5["a"], MD5["b"], None, None, None])
    rows = planned(table.set_index(pd.Index(list("vwxyz"))), key_column="id", **options)
    assert sorted(rows.errors) == [0, 1, 3]
    assert rows.requests.keys[rows.files[2]] == "8"
    assert rows.requests.keys[rows.files[4]] == "9"
    told = "; use a column that differs from file to file, or put the mirrors of one file in one cell"
    expected = "column 'id': expected a key that names one file, got '7' for"
    assert reasons(rows) == {
        0: f"row 'v', {expected} http://h:80/a and, in row 'w', for http://h:80/b{told}",
        1: f"row 'w', {expected} http://h:80/b and, in row 'v', for http://h:80/a{told}",
        3: f"row 'y', {expected} http://h:80/a and, in row 'w', for http://h:80/b{told}",
    }


@pytest.mark.parametrize(
    ("cells", "alike"),
    [
        (["http://h/a", "http://h/a#x", "http://h/a?y", "http://me@h/a"], True),
        (["http://h/a", "HTTP://H:80/a", "http://h:80/a"], True),
        (["http://h", "http://h/", "http://h?x"], True),
        (["http://h/a http://m/b", "http://m/b?s", "http://h/a?s"], True),
        (["http://h/a", "http://m/b", "http://h/a http://m/b"], True),  # the last one links the others
        (["http://c/1", "http://d/1 http://c/1", "http://e/1", "http://e/1 http://d/1"], True),
        (["http://h/a http://m/b", "http://m/a"], False),
        (["http://h/a", "http://h/A"], False),
        (["http://h/a", "https://h/a"], False),
        (["http://h/a", "http://h:81/a"], False),
        (["http://h/a", "http://h/a", "http://h/b"], False),
        (["http://h/a http://m/a", "http://m/a", "http://x/a http://y/a", "http://y/a"], False),
    ],
)
def test_rows_of_one_key_share_a_place(cells: list[str], alike: bool) -> None:
    rows = planned(urls_table(*cells, id=[7] * len(cells)), key_column="id", path_template="{id}.nwb")
    assert rows.files.tolist() == [0 if alike else -1] * len(cells)


def test_a_row_that_is_refused_for_itself_spoils_no_key() -> None:
    rows = planned(urls_table("http://h/a", "http://h/b", "http://h/a", id=[7, 7, 7], size=[1, -5, 1]), key_column="id")
    assert rows.files.tolist() == [0, -1, 0]


def test_many_rows_of_one_key_cost_one_look() -> None:
    count = 30_000
    chain = [f"http://h/{at} http://h/{at + 1}" for at in reversed(range(count))]
    table = urls_table(*chain, id=[7] * count)
    began = time.process_time()
    assert planned(table, key_column="id", path_template="{id}.nwb").errors == {}
    table.loc[0, "url"] = "http://other/1"
    assert len(planned(table, key_column="id", path_template="{id}.nwb").errors) == count
    assert time.process_time() - began < 10


def test_one_url_at_two_paths_is_one_file_and_a_copy() -> None:
    rows = planned(urls_table("http://h/a", "http://h/a", "http://h/a", p=["x", "y", "x"]), path_template="{p}")
    assert rows.files.tolist() == [0, 1, 0]
    assert [rows.requests.path(file) for file in (0, 1)] == ["v0/x", "v0/y"]
    assert dict(rows.requests.copy_of) == {1: 0}


def test_same_url_and_path_but_mirrors_elsewhere_is_one_file() -> None:
    rows = planned(urls_table("http://h/a http://m/1", ["http://h/a", "http://m/2"]))
    assert rows.files.tolist() == [0, 0]
    assert rows.requests[0].urls == ("http://h/a", "http://m/1")


@pytest.mark.parametrize(
    ("names", "refused", "reason"),
    [
        (["1/a.nwb", "2/a.nwb", "b.nwb"], [0, 1], "its path 'a.nwb' is also that of row "),
        (["a.nwb", "A.NWB", "b"], [0, 1], "differs only in case or Unicode form from"),
        (["caf%C3%A9", "cafe%CC%81", "b"], [0, 1], "differs only in case or Unicode form from"),
        (["a%3Ab.nwb", "a:b.nwb", "b"], [0, 1], "is also that of"),
        (["a.nwb", "a", "A.nwb"], [0, 1, 2], "give a path template"),
        (["a.", "a%2E", "b"], [], ""),
    ],
)
def test_files_that_want_one_name_are_all_refused(names: list[str], refused: list[int], reason: str) -> None:
    rows = planned(urls_table(*[f"http://h/{name}" for name in names]))
    assert sorted(rows.errors) == refused
    assert all(reason in text for text in reasons(rows).values())
    assert all(isinstance(error, UnsafePath) for error in rows.errors.values())


def test_files_that_want_one_name_name_each_other() -> None:
    urls = ["http://h/a", "http://h/1/k.nwb", "http://h/a", "http://h/2/K.nwb", f"http://h/3/k.nwb?token={CANARY}"]
    assert reasons(planned(urls_table(*urls).set_index(pd.Index(list("vwxyz"))))) == {
        1: "row 'w', column 'url': its path 'k.nwb' differs only in case or Unicode form from 'K.nwb' of row 'y'; "
        "give a path template: http://h/1/k.nwb",
        3: "row 'y', column 'url': its path 'K.nwb' differs only in case or Unicode form from 'k.nwb' of row 'w'; "
        "give a path template: http://h/2/K.nwb",
        4: "row 'z', column 'url': its path 'k.nwb' is also that of row 'w'; "
        "give a path template: http://h/3/k.nwb?token=***",
    }


def test_a_path_template_that_names_files_alike_is_what_is_blamed() -> None:
    table = urls_table("http://h/a", "http://h/a", "http://h/b", "http://h/c", p=["k", "k", "k", "k/c"])
    advice = "make the path template differ for the two"
    assert reasons(planned(table, path_template="{p}")) == {
        0: f"row 0, column 'path template': its path 'k' cannot stand beside 'k/c' of row 3; {advice}: http://h/a",
        1: f"row 1, column 'path template': its path 'k' cannot stand beside 'k/c' of row 3; {advice}: http://h/a",
        2: f"row 2, column 'path template': its path 'k' cannot stand beside 'k/c' of row 3; {advice}: http://h/b",
        3: f"row 3, column 'path template': its path 'k/c' cannot stand beside 'k' of row 2; {advice}: http://h/c",
    }
    assert reasons(planned(table.iloc[1:3], path_template="{p}")) == {
        0: f"row 1, column 'path template': its path 'k' is also that of row 2; {advice}: http://h/a",
        1: f"row 2, column 'path template': its path 'k' is also that of row 1; {advice}: http://h/b",
    }


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_file_cannot_be_the_folder_of_another(order: tuple[int, ...]) -> None:
    wanted = [("A/b", True), ("a/B/c.nwb", True), ("a/b/d/e.nwb", True), ("a/c.nwb", False)]
    table = urls_table(*[f"http://h/{at}" for at in order], p=[wanted[at][0] for at in order])
    rows = planned(table, path_template="{p}")
    assert sorted(rows.errors) == [position for position, at in enumerate(order) if wanted[at][1]]
    assert all("cannot stand beside" in text for text in reasons(rows).values())


def test_a_refused_row_takes_no_name() -> None:
    rows = planned(urls_table("http://h/1/a.nwb", "http://h/2/a.nwb", size=[-1, 5]))
    assert list(rows.errors) == [0]
    assert rows.requests[int(rows.files[1])].urls == ("http://h/2/a.nwb",)


def test_many_bad_files_cost_one_look() -> None:
    count = 30_000
    table = pd.DataFrame({"url": [f"http://h/{at}/download/" for at in range(count)]})
    same = pd.DataFrame({"url": [f"http://h/{at}/same.nwb" for at in range(count)]})
    began = time.process_time()
    assert len(planned(table).errors) == count
    assert len(planned(same).errors) == count
    assert time.process_time() - began < 10  # it was minutes when each file was looked for in all rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url_column": "nope"}, "the table has no column 'nope'; it has: url"),
        ({"path_template": "{nope}"}, "names the column 'nope'; the table has: url"),
        ({"url_template": "http://h/{nope}"}, "names the column 'nope'"),
        ({"url_template": "http://h/{"}, "cannot be read"),
        ({"base_url": "localhost"}, "base_url: expected a URL such as"),
    ],
)
def test_options_that_cannot_be_used_are_plan_errors(options: dict[str, str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        planned(urls_table("http://h/a"), **options)


def test_an_index_of_urls_can_be_named() -> None:
    table = pd.DataFrame({"n": [1]}, index=pd.Index(["http://h/a"], name="where"))
    assert paths(planned(table, url_column="where")) == ["v0/a.nwb"]


def test_a_sentinel_id_is_one_file_for_all_rows() -> None:
    rows = planned(pd.DataFrame({"file_id": [-999] * 5}), url_template="http://h/d/{file_id}")
    assert rows.files.tolist() == [0] * 5
    assert rows.requests.urls == ["http://h/d/-999"]


@pytest.mark.parametrize(
    ("ids", "noted"),
    [([-999] * 10, True), ([-999] * 10 + [None], True), ([-999] * 9, False), ([-999] * 10 + [1], False)],
)
def test_a_template_that_makes_one_url_of_many_rows_is_noted(ids: list[Any], noted: bool) -> None:
    table = pd.DataFrame({"id": pd.array(ids, dtype="Int64")})
    note = "the URL template makes one URL of 10 rows: http://h/d/-999?token=***"
    assert planned(table, url_template="http://h/d/{id}?token=x").notes == ((note,) if noted else ())
    assert planned(pd.DataFrame({"url": ["http://h/a"] * 10})).notes == ("URLs from column 'url'",)


def test_queues_hold_each_file_once_by_origin() -> None:
    urls = ["http://a/1", "https://a/2", "http://A:80/3", "http://me:p@a/4", "http://b/5", "http://a?x/6"]
    rows = planned(urls_table(*urls[:5]))
    queues = {origin: list(files) for origin, files in rows.requests.queues().items()}
    assert queues == {"http://a:80": [0, 2, 3], "https://a:443": [1], "http://b:80": [4]}
    chosen = rows.requests.select(np.array([3, 4]))
    assert {origin: list(files) for origin, files in chosen.queues().items()} == {
        "http://a:80": [3],
        "http://b:80": [4],
    }


def test_total_bytes_of_wrong_sizes_do_not_wrap() -> None:
    rows = planned(urls_table(*[f"http://h/{at}" for at in range(9)], size=[2**62] * 8 + [None]))
    assert rows.requests.total_bytes(np.arange(9)) == (8 * 2**62, 1)


# -- any table at all ---------------------------------------------------------------------------------------------

cell = st.one_of(
    st.sampled_from([None, float("nan"), pd.NA, pd.NaT, "", 5, 1.5, b"x", Path("a"), [], ["http://h/a.nwb"]]),
    st.sampled_from(["nan", "ftp://h/a", "http://h:99999/a", "http://h/a\u200b", "not found", "/a", "http://h/"]),
    st.builds("http://{}/{}{}".format, st.sampled_from("hm"), st.sampled_from(["", "a/", "A/"]), st.sampled_from(
        ["a.nwb", "A.nwb", "b", "%2e%2e", "..", "caf%C3%A9", "cafe%CC%81", "x?token=1", "x?token=2", "é b"])),
    st.sampled_from(["http://h/m1 http://m/m1", "http://h/m1"]),
)  # fmt: skip
digest = st.sampled_from([None, None, None, "a" * 32, "A" * 32, "b" * 32, "bad", 5, float("nan")])
size = st.sampled_from([None, None, None, 1, 1.0, "1", 2, -1, 0.5])
place = st.sampled_from(["x", "X", "y", "y/z", "y/z/w", None, "../x", "v"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[pd.DataFrame, dict[str, str]]:
    rows = draw(st.lists(st.tuples(cell, digest, size, place), max_size=10))
    table = pd.DataFrame(rows, columns=["url", "md5", "size", "place"], dtype=object)
    labels = draw(st.lists(st.sampled_from(["a", "b", 1]), min_size=len(rows), max_size=len(rows)))
    table.index = pd.MultiIndex.from_arrays([labels, labels]) if rows and draw(st.booleans()) else pd.Index(labels)
    return table, draw(st.sampled_from([{}, {"path_template": "{place}"}, {"base_url": "http://base"}]))


@given(tables())
@settings(max_examples=400, deadline=None)
def test_rows_out_are_the_rows_in(case: tuple[pd.DataFrame, dict[str, str]]) -> None:
    table, options = case
    rows = planned(table, **options)
    assert rows.index is table.index
    assert len(rows.files) == len(table)
    assert set(rows.errors) == set(np.flatnonzero(rows.files < 0).tolist())
    assert all(isinstance(error, InvalidRow) for error in rows.errors.values())
    assert all(str(error).startswith("row ") and ", column '" in str(error) for error in rows.errors.values())
    used = sorted(set(rows.files[rows.files >= 0].tolist()))
    places = [fold(rows.requests.path(file)) for file in used]
    assert len(set(places)) == len(places)
    assert not any(other.startswith(mine + "/") for mine, other in itertools.permutations(places, 2))
    stated: dict[str, set[tuple[Any, Any]]] = {}
    for file in used:
        request = rows.requests[file]
        stated.setdefault(request.key, set()).add((request.size, request.digests))
        assert request.key == redact(request.urls[0])
    assert all(len(said) == 1 for said in stated.values())
    assert all(first < copy for copy, first in rows.requests.copy_of.items())
    for position, file in enumerate(rows.files.tolist()):
        if file >= 0:
            request, given_md5 = rows.requests[file], table["md5"].iloc[position]
            if isinstance(given_md5, str):
                assert request.digests[0].hex == given_md5.lower()
            own = rows.aliases.get(position, request.urls[0])
            given_url = table["url"].iloc[position]
            given_url = given_url[0] if isinstance(given_url, list) else given_url.split(" http")[0]
            assert own.endswith(given_url)
            assert redact(own) == request.key


@given(tables())
@settings(max_examples=150, deadline=None)
def test_a_rows_fate_does_not_depend_on_the_order(case: tuple[pd.DataFrame, dict[str, str]]) -> None:
    table, options = case
    forward, backward = planned(table, **options), planned(table.iloc[::-1], **options)
    assert (forward.files < 0).tolist() == (backward.files < 0).tolist()[::-1]
    assert paths(forward) == paths(backward)[::-1]


# -- the cost -----------------------------------------------------------------------------------------------------

COUNT = 100_000
IDS = range(1_000_000_000, 1_000_000_000 + COUNT)


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ({"wkf": [f"http://testwarehouse:9000/api/v2/well_known_file_download/{at}" for at in IDS]}, {}),
        ({"file_id": [float(at) for at in IDS]}, {"url_template": "http://testwarehouse:9000/api/v2/d/{file_id}"}),
    ],
    ids=["column", "template"],
)
def test_planning_is_lean(table: dict[str, list[Any]], options: dict[str, str]) -> None:
    frame = pd.DataFrame(table)
    began = time.process_time()
    rows = planned(frame, **options)
    seconds = time.process_time() - began
    assert len(rows.requests) == COUNT
    assert seconds / COUNT < 20e-6  # about 2 microseconds on a quiet machine
    tracemalloc.start()
    again = planned(frame, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert again.requests[COUNT - 1] == rows.requests[COUNT - 1]
    assert peak < (64 << 20) + 300 * COUNT


@pytest.mark.parametrize("hosts", ["ab", "ba", "aab", "bab", "abc", "cba", "bbb"])
def test_each_file_is_in_the_queue_of_its_host(hosts: str) -> None:
    """Hosts that sort before and behind the first one, among all rows and among some."""
    table = pd.DataFrame({"url": [f"http://{host}/{row}.nwb" for row, host in enumerate(hosts)]})
    requests = plan_rows(table, TableOptions(), "v0").requests
    for wanted in (range(len(hosts)), range(1, len(hosts))):
        some = requests.select(np.array(wanted))
        assert {origin: list(positions) for origin, positions in some.queues().items()} == {
            f"http://{host}:80": [at for at in wanted if hosts[at] == host] for host in {hosts[at] for at in wanted}
        }


@pytest.mark.parametrize("options", [{"url_template": ""}, {"path_template": ""}])
def test_an_empty_template_is_none_and_is_said_so(options: dict[str, str]) -> None:
    """As of a variable of the shell that was never set."""
    with pytest.raises(PlanError, match="the template '' names no column"):
        planned(pd.DataFrame({"url": ["http://h/a.nwb"]}), **options)


def test_what_a_row_may_name_is_not_known_where_its_cell_is_no_url() -> None:
    urls = ["http://h/a.nwb", None, "n/a", "s3://b/x", "http://h:99999/x"]
    assert planned(pd.DataFrame({"url": urls})).named() >= {"http://h/a.nwb"}
    for cell in ("b.nwb", "/b.nwb", ["b.nwb"], 7):
        with pytest.raises(PlanError, match="1 of 6 rows cannot be used, so nobody knows which files they name: row 5"):
            planned(pd.DataFrame({"url": [*urls, cell]})).named()
    ids = pd.DataFrame({"id": np.array([1, None, 2.0**60], dtype=object)})
    assert planned(ids.head(2), url_template="http://h/{id}.nwb").named() == {"http://h/1.nwb"}
    with pytest.raises(PlanError, match="nobody knows which files they name: row 2, column 'id'"):
        planned(ids, url_template="http://h/{id}.nwb").named()
