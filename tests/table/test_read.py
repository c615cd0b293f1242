"""A metadata file becomes a DataFrame: what is written stays as it is written."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from framefetch.errors import PlanError
from framefetch.options import TableOptions
from framefetch.table.read import query_table, read_table
from framefetch.table.text import read_rows

ROWS = "name\turl\né\thttp://h/1\n日本\thttp://h/2\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.csv.gz", "t.tsv", "t.tab.gz", "t.txt", "a.b.TSV.GZ"])
def test_delimited_text(tmp_path: Path, name: str) -> None:
    text = ROWS.replace("\t", ",") if ".csv" in name.lower() else ROWS
    table = read_table(written(tmp_path, name, text))
    assert table.to_dict("list") == {"name": ["é", "日本"], "url": ["http://h/1", "http://h/2"]}


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.jsonl.gz", "T.JSONL.GZ"])
def test_json_lines_are_not_guessed_at(tmp_path: Path, name: str) -> None:
    lines = (
        '{"id": "007", "md5": "12345678901234567890123456789012", "date": "2020-01-01", "urls": ["http://h/1"]}\n'
        "\n"
        '{"id": "1e5", "md5": null, "modified": 5, "urls": null}\n'
    )
    table = read_table(written(tmp_path, name, "\ufeff" + lines))
    assert table["id"].tolist() == ["007", "1e5"]
    assert table["md5"][0] == "12345678901234567890123456789012"
    assert pd.isna(table["md5"][1])
    assert table["date"][0] == "2020-01-01"
    assert table["urls"][0] == ["http://h/1"]
    assert table["modified"][1] == 5


def test_a_digest_of_digits_stays_text(tmp_path: Path) -> None:
    digits = "0" * 30 + "12"
    table = read_table(written(tmp_path, "t.csv", f"url,md5,sha256\nhttp://h/1,{digits},{'9' * 64}\nhttp://h/2,,\n"))
    assert table["md5"][0] == digits
    assert table["sha256"][0] == "9" * 64
    assert table["md5"].isna().tolist() == [False, True]


@pytest.mark.parametrize("name", ["t.parquet", "t.pqt"])
def test_parquet_keeps_its_index(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame(
        {"size": [1.0, None]}, index=pd.MultiIndex.from_tuples([(1, "a"), (1, "b")], names=["id_0", "id_1"])
    )
    table.to_parquet(tmp_path / name)
    pd.testing.assert_frame_equal(read_table(str(tmp_path / name)), table)


def test_a_frame_is_returned_as_it_is() -> None:
    table = pd.DataFrame({"a": [1]})
    assert read_table(table) is table


def test_a_damaged_gzip_is_a_plan_error(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b"".join(b"http://h/%d\n" % at for at in range(5000))))
    for name, broken in {
        "cut.csv.gz": data[: len(data) // 2],
        "type.csv.gz": data[:10] + b"\xff" + data[11:],
        "flipped.csv.gz": data[:40] + bytes([data[40] ^ 0xFF]) + data[41:60] + b"\xff\xff" + data[62:],
        "none.csv.gz": b"url\nhttp://h/1\n",
    }.items():
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(PlanError, match=rf"{name}: cannot be read as \.csv: "):
            read_table(tmp_path / name)
        with pytest.raises(PlanError, match=rf"{name}: cannot be read as \.csv: "):
            read_rows(tmp_path / name, TableOptions())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "cannot be read as .csv: No columns to parse"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "cannot be read as .csv: .*line 3"),
        ("t.jsonl", '{"a": 1}\n{"a":\n', "cannot be read as .jsonl: line 2: "),
        ("t.jsonl", '{"a": 1}\n[1, 2]\n', r"line 2: expected an object, got \[1, 2\]"),
        ("t.parquet", "PAR", "cannot be read as .parquet"),
        ("t.xlsx", "", "expected a table ending in one of .csv, .tsv"),
        ("table", "", "expected a table ending in one of"),
        (".gz", "", "expected a table ending in one of"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_table(written(tmp_path, name, text))


def test_text_in_another_encoding_is_a_plan_error(tmp_path: Path) -> None:
    advice = "; save it as UTF-8, or read it with pandas and its encoding=..., and pass the DataFrame"
    table, line = "url\nhttp://h/ü\n", '{"url": "http://h/ü"}'
    for name, data in (
        ("t.csv", table.encode("utf-16")),
        ("t.tsv", table.encode("latin-1")),
        ("t.csv.gz", gzip.compress(table.encode("latin-1"))),
        ("t.jsonl", line.encode("utf-16")),
    ):
        (tmp_path / name).write_bytes(data)
        for read in (read_table, lambda path: read_rows(path, TableOptions())):
            with pytest.raises(PlanError, match=f"codec can't decode .*{advice}$"):
                read(tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(PlanError, match="cannot be read as .csv"):
        read_table(tmp_path / "folder.csv")


TABLE = pd.DataFrame({"age": [2, 0, 1], "line": ["x/wt;y", None, "z"], "male": [True, False, True]})


@pytest.mark.parametrize(
    ("query", "ages"),
    [
        ("age > 0", [2, 1]),
        ("line == 'x/wt;y'", [2]),
        ("line.isna()", [0]),
        ("line.str.contains('x', na=False)", [2]),
        ("male", [2, 1]),
        ("not male and age < 9", [0]),
        ("age in [1, 2] and index > 0", [1]),
        ("age > 100", []),
    ],
)
def test_queries(query: str, ages: list[int]) -> None:
    assert query_table(TABLE, query)["age"].tolist() == ages


@pytest.mark.parametrize("query", ["age", "line", "1", "True", "age + 1", "age = 3", "'age > 0'", "@table"])
def test_a_query_that_is_no_condition_is_refused(query: str) -> None:
    with pytest.raises(PlanError, match="is no condition; expected one such as|cannot be used"):
        query_table(TABLE, query)


@pytest.mark.parametrize("query", ["nothing > 1", "age >", "", "@os.getcwd()", "line > 1"])
def test_a_query_that_fails_names_the_columns(query: str) -> None:
    with pytest.raises(PlanError, match=r"cannot be used: .*columns are: age, line, male"):
        query_table(TABLE, query)


def test_a_query_of_an_empty_table() -> None:
    assert query_table(TABLE.iloc[:0], "line.str.contains('x') and age > 1").empty


def test_rows_that_all_end_in_a_comma_and_rows_with_names(tmp_path: Path) -> None:
    """The first are what a spreadsheet writes, the second what R writes: both have one cell more than the header."""
    table = tmp_path / "table.csv"
    table.write_text("id,wkf\n7,http://h/1,\n8,http://h/2,\n")
    assert read_table(table).to_dict("list") == {"id": [7, 8], "wkf": ["http://h/1", "http://h/2"]}
    table.write_text("id,wkf\n7,http://h/1,,\n8,http://h/2,,\n")
    assert read_table(table).to_dict("list") == {"id": [7, 8], "wkf": ["http://h/1", "http://h/2"]}
    table.write_text("id,wkf\n7,http://h/1,\n8,http://h/2\n")
    assert read_table(table).to_dict("list") == {"id": [7, 8], "wkf": ["http://h/1", "http://h/2"]}
    table.write_text(f"id,wkf,note\n7,http://h/1,{'x' * 200_000}\n")
    assert read_table(table)["wkf"].tolist() == ["http://h/1"]
    for last in ("http://h/1", "NA"):
        table.write_text(f"id,wkf\n1,11,{last}\n2,12,{last}\n")
        named = read_table(table)
        assert (named.index.tolist(), named["id"].tolist()) == ([1, 2], [11, 12])


def test_nobody_guesses_which_of_two_tables_is_meant(tmp_path: Path) -> None:
    table = tmp_path / "table.csv.gz"
    table.write_bytes(gzip.compress(b"id,note\n1,11,\n2,12,\n"))
    with pytest.raises(PlanError, match="names of rows, or a delimiter too many"):
        read_table(table)


def test_a_table_elsewhere_is_no_file() -> None:
    with pytest.raises(PlanError) as refused:
        read_table("https://me:c4n4ry@host/x.csv")
    told = "expected a file of this machine; download it, or read it with pandas and pass the DataFrame"
    assert str(refused.value) == f"https://host/x.csv: {told}"
