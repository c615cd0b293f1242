"""A text table means what pandas says it means, or is left to pandas."""

import gzip
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from framefetch.errors import PlanError
from framefetch.options import TableOptions
from framefetch.table.plan import plan_rows
from framefetch.table.read import read_table
from framefetch.table.rows import FrameRows
from framefetch.table.text import read_rows, read_text_rows

PLAIN = "name,url,size,md5\na,http://h/1.nwb,5,D41D8CD98F00B204E9800998ECF8427E\nb,http://h/2.nwb,,\n"


def cells(path: Path, options: TableOptions, column: str) -> tuple[list[object], list[object]]:
    """Return a column as read here and as pandas reads it."""
    rows = read_text_rows(path, options)
    assert rows is not None
    here, there = rows.values(column), FrameRows(read_table(path)).values(column)
    assert here is not None
    assert there is not None
    assert here.dtype == there.dtype
    return [repr(cell) for cell in here.tolist()], [repr(cell) for cell in there.tolist()]


@pytest.mark.parametrize(
    "values",
    [
        ["1", "2", "-3"],
        ["007", "8"],
        ["1085755199.0", ""],
        ["1085755199", "", "NA"],
        ["", "", "nan"],
        ["a/b", "7", "NULL", " "],
        ["http://h/x", '"quoted, with ""more"""'],
        ["http://h/x", "True"],
    ],
)
def test_cells_are_those_of_pandas(values: list[str], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("id,url,note\n" + "".join(f"{value},http://h/{row},x\n" for row, value in enumerate(values)))
    here, there = cells(table, TableOptions(key_column="id"), "id")
    assert here == there


@pytest.mark.parametrize(
    "text",
    [
        "",
        "url\n \n",
        "\ufeffurl\nhttp://h/1\n",
        "url,url\nhttp://h/1,http://h/2\n",
        "url,\nhttp://h/1,2\n",
        "url,size\nhttp://h/1,5,6\n",
        "url,size\nhttp://h/1\n",
        "url,size\nhttp://h/1,1e3\n",
        "url,size\nhttp://h/1, 5\n",
        "url,size\nhttp://h/1,True\n",
        "url,size\nhttp://h/1,12345678901234567890\n",
        'url,size\nhttp://h/1,"5\n',
        "url\nhttp://h/\0\n",
    ],
)
def test_what_is_not_plain_is_left_to_pandas(text: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    assert read_text_rows(table, TableOptions()) is None


def test_other_formats_and_missing_files_are_left_to_pandas(tmp_path: Path) -> None:
    (tmp_path / "table.jsonl").write_text('{"url": "http://h/1"}\n')
    (tmp_path / "latin.csv").write_bytes(b"url\nhttp://h/\xe9\n")
    for name in ("table.jsonl", "latin.csv", "missing.csv", "table"):
        assert read_text_rows(tmp_path / name, TableOptions()) is None


def test_gzip_tabs_and_a_limit(tmp_path: Path) -> None:
    table = tmp_path / "table.tsv.gz"
    table.write_bytes(gzip.compress(b"url\tsize\nhttp://h/1\t5\n\nhttp://h/2\t6\nhttp://h/3\tbad\n"))
    rows = read_text_rows(table, TableOptions(), limit=2)
    assert rows is not None
    assert (len(rows), rows.index) == (2, range(2))
    plan = plan_rows(rows, TableOptions(), "v0")
    assert (list(plan.requests.urls), plan.requests.sizes.tolist()) == (["http://h/1", "http://h/2"], [5, 6])


def test_a_plan_of_text_is_a_plan_of_the_frame(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(PLAIN + "c,no url,3,xyz\nd,http://h/2.nwb,7,\n,,,\n")
    rows = read_text_rows(table, TableOptions(path_template="{name}.nwb"))
    assert rows is not None
    for options in (TableOptions(), TableOptions(path_template="{name}.nwb"), TableOptions(key_column="name")):
        text, frame = plan_rows(rows, options, "v0"), plan_rows(read_table(table), options, "v0")
        assert list(text.index) == list(frame.index)
        assert text.files.tolist() == frame.files.tolist()
        assert {row: str(error) for row, error in text.errors.items()} == {
            row: str(error) for row, error in frame.errors.items()
        }
        assert [text.requests[file] for file in range(len(text.requests))] == [
            frame.requests[file] for file in range(len(frame.requests))
        ]


CELLS = st.one_of(
    st.sampled_from(
        ["", "NA", "nan", "1", "-2", "3.0", "4.5", "007", "1e5", "True", "inf", "http://h/x", "a b", " ", "é", "-"]
    ),
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=6),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=6), st.booleans(), st.sampled_from(("\n", "\r\n", "\r", "\n\n")))
def test_any_table_reads_as_with_pandas_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]], quoted: bool, end: str
) -> None:
    pandas = tuple(map(int, pd.__version__.split(".")[:2]))
    table = tmp_path_factory.mktemp("any") / "table.csv"
    file = io.StringIO()
    pd.DataFrame(lines, columns=["url", "id"]).to_csv(file, index=False, quoting=1 if quoted else 0, lineterminator=end)
    # pandas before 3.1 makes hundreds of thousands of rows of a file whose lines end in CR and one begins with a blank.
    assume(pandas >= (3, 1) or "\r " not in file.getvalue())
    table.write_text(file.getvalue(), encoding="utf-8", newline="")
    rows = read_text_rows(table, TableOptions(key_column="id"))
    if rows is None:
        return
    frame = FrameRows(read_table(table))
    assert len(rows) == len(frame)
    for column in ("url", "id"):
        here, there = rows.values(column), frame.values(column)
        assert here is not None
        assert there is not None
        if len(rows):
            assert list(map(repr, here.tolist())) == list(map(repr, there.tolist()))


@pytest.mark.parametrize("later", ["b09", "x", "1e3", "", "9", "9.5", "http://h/x"])
@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_a_row_means_the_same_with_a_limit(later: str, limit: int, tmp_path: Path) -> None:
    """pandas types a column by all of its rows: 007 is 7, until a later one is no number."""
    table = tmp_path / "table.csv"
    table.write_text(f"id,note,size\n007,x,5\n008,x,6\n{later},x,7\n")
    options = TableOptions(url_template="http://h/{id}")
    limited = plan_rows(read_rows(table, options, limit=limit), options, "v0")
    whole = plan_rows(read_table(table).head(limit), options, "v0")
    assert list(limited.requests.urls) == list(whole.requests.urls)
    assert limited.errors.keys() == whole.errors.keys()
    assert limited.requests.sizes.tolist() == whole.requests.sizes.tolist()


def test_a_limit_needs_no_pandas_where_only_sizes_are_numbers(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("url,size,file_size\n" + "".join(f"http://h/{row},{row},k\n" for row in range(10)))
    rows = read_text_rows(table, TableOptions(), limit=3)
    assert rows is not None
    assert plan_rows(rows, TableOptions(), "v0").requests.sizes.tolist() == [0, 1, 2]
    assert read_text_rows(table, TableOptions(key_column="size"), limit=3) is None


@pytest.mark.parametrize("name", ["csv", ".csv", "csv.gz", "tsv", "a.b/csv"])
def test_a_name_that_is_no_suffix_is_no_table_either_way(name: str, tmp_path: Path) -> None:
    table = tmp_path / name
    table.parent.mkdir(exist_ok=True)
    table.write_bytes((gzip.compress if name.endswith(".gz") else bytes)(PLAIN.encode()))
    with pytest.raises(PlanError, match="expected a table ending in one of"):
        read_table(table)
    with pytest.raises(PlanError, match="expected a table ending in one of"):
        read_rows(table, TableOptions())


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoted_at", [None, 0, 5000, 9999])
@pytest.mark.parametrize("limit", [None, 1, 4096, 5001, 20_000])
def test_many_rows_are_read_as_few_are(end: str, quoted_at: int | None, limit: int | None, tmp_path: Path) -> None:
    """Rows are cut many at a time until the first that is quoted; a cell with a line break is one cell."""
    lines = [f"http://h/{row},{row}{end}" for row in range(10_000)]
    if quoted_at is not None:
        lines[quoted_at] = f'"http://h/a, {end} b",7{end}{end}'
    table = tmp_path / "table.csv"
    table.write_text(f"url,size{end}" + "".join(lines).removesuffix(end), newline="")
    rows, frame = read_text_rows(table, TableOptions(), limit), read_table(table).head(limit or 10_000)
    assert rows is not None
    for column in ("url", "size"):
        here = rows.values(column)
        assert here is not None
        assert here.tolist() == frame[column].tolist()


@pytest.mark.parametrize("rows", [["http://h/1,2,3", "http://h/2"], ["http://h/1", "http://h/2,3,4"]])
def test_rows_of_other_lengths_do_not_make_up_for_one_another(rows: list[str], tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("url,size\n" + "\n".join(rows) + "\n")
    assert read_text_rows(tmp_path / "table.csv", TableOptions()) is None


def test_a_home_is_one_for_text_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for place, rows in (("home", 1), ("~", 2)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "t.csv").write_text("url\n" + "http://h/1\n" * rows)
    for place, rows in (("~/t.csv", 1), ("./~/t.csv", 2)):
        read = read_text_rows(place, TableOptions())
        assert read is not None
        assert len(read) == rows
