"""Templates that make a URL or a path of one row."""

from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.errors import PlanError
from framefetch.table.rows import FrameRows
from framefetch.table.template import Template, is_missing
from framefetch.urls import invisible_character


def url(text: str, **columns: Any) -> list[str | None]:
    return Template(text, for_url=True).apply(FrameRows(pd.DataFrame(columns)))[0]


def path(text: str, **columns: Any) -> list[str | None]:
    return Template(text, for_url=False).apply(FrameRows(pd.DataFrame(columns)))[0]


def reasons(text: str, **columns: Any) -> dict[int, tuple[str, str]]:
    refused = Template(text, for_url=True).apply(FrameRows(pd.DataFrame(columns)))[1]
    return {position: (column, str(error)) for position, (column, error) in refused.items()}


@pytest.mark.parametrize(
    "ids",
    [
        [1085755199.0, float("nan")],
        pd.array([1085755199, None], dtype="Int64"),
        pd.array([1085755199.0, None], dtype="Float64"),
        np.array([1085755199.0, None], dtype=object),
        ["1085755199", None],
        np.array([np.float64(1085755199), pd.NA], dtype=object),
        pd.Categorical([1085755199, None]),
    ],
)
def test_an_id_with_gaps_prints_as_an_integer(ids: Any) -> None:
    assert url("http://h/d/{id}", id=ids) == ["http://h/d/1085755199", None]
    assert reasons("http://h/d/{id}", id=ids) == {
        1: ("id", "expected a value for the URL template, but the cell is empty")
    }


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([-0.0, 2.0**53 - 1, 0.5, -7.0], ["0", "9007199254740991", "0.5", "-7"]),
        (np.array([1.5, 2.0], dtype="float32"), ["1.5", "2"]),
        (np.array([2**64 - 1], dtype="uint64"), ["18446744073709551615"]),
        ([True, False], ["True", "False"]),
        ([Decimal("5.5")], ["5.5"]),
        (np.array([5, "x", 2.0], dtype=object), ["5", "x", "2"]),
        (pd.to_datetime(["2020-01-02"]), ["2020-01-02 00:00:00"]),
    ],
)
def test_cells_as_text(values: Any, texts: list[str]) -> None:
    assert path("{x}", x=values) == texts


@pytest.mark.parametrize("cell", [None, float("nan"), pd.NA, pd.NaT, "", " ", "nan", "NaT", "<NA>", Decimal("NaN")])
def test_missing_cells(cell: Any) -> None:
    assert url("http://h/{a}/{b}", a=np.array([cell, "x"], dtype=object), b=["y", "y"]) == [None, "http://h/x/y"]
    assert is_missing(cell) or cell in ("nan", "NaT", "<NA>")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (b"x", "expected text or a number, got bytes"),
        (["a", "b"], "expected text or a number, got list"),
        ({"a": 1}, "expected text or a number, got dict"),
        (float("inf"), "expected text or a number, got inf"),
        ("a\u200bb", "got one with ZERO WIDTH SPACE in it: 'a\\u200bb'"),
        ("a\n", "got one with U+000A in it"),
    ],
)
def test_cells_that_cannot_stand_in_a_url_are_refused_alone(cell: Any, reason: str) -> None:
    table = {"a": pd.Series(["ok", cell, "fine"], dtype=object)}
    assert url("http://h/{a}", **table) == ["http://h/ok", None, "http://h/fine"]
    (position, (column, said)), *others = reasons("http://h/{a}", **table).items()
    assert (position, column, others) == (1, "a", [])
    assert reason in said


def test_an_infinite_number_among_floats_is_refused_at_its_own_place() -> None:
    values = [1.0, 0.5, float("inf"), float("nan"), 2.0]
    assert url("http://h/{a}", a=values) == ["http://h/1", "http://h/0.5", None, None, "http://h/2"]
    assert reasons("http://h/{a}", a=values) == {
        2: ("a", "expected text or a number, got inf"),
        3: ("a", "expected a value for the URL template, but the cell is empty"),
    }


@pytest.mark.parametrize(
    "values",
    [
        np.array([7.0, 2.0**53, float("nan")]),
        np.array([7.0, -1e22]),
        np.array([7.0, 2.0**24], dtype="float32"),
        np.array([7, 2.0**53, "x"], dtype=object),
    ],
)
@pytest.mark.parametrize("field", ["{a}", "{a:d}"])
def test_an_id_that_other_ids_are_made_too_is_none(values: Any, field: str) -> None:
    """A column with gaps is read as float: 12345678901234567 would ask for the file of 12345678901234568."""
    if field == "{a:d}":
        values = values[:2]
    (position, (column, said)), *_ = reasons(f"http://h/{field}", a=values).items()
    assert (position, column) == (1, "a")
    assert "expected a number that a float holds exactly, got" in said
    assert "Int64" in said
    assert url(f"http://h/{field}", a=values)[:2] == ["http://h/7", None]


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("http://h/{g}", "http://h/Slc17a7-IRES2-Cre/wt;Ai93(TITL-GCaMP6f)/wt%20%25?x".replace("?", "%3F")),
        ("http://h/{g!q}", "http://h/Slc17a7-IRES2-Cre%2Fwt%3BAi93%28TITL-GCaMP6f%29%2Fwt%20%25%3Fx"),
        ("http://h/?q={g}", "http://h/?q=Slc17a7-IRES2-Cre%2Fwt%3BAi93%28TITL-GCaMP6f%29%2Fwt%20%25%3Fx"),
        ("{g}", "Slc17a7-IRES2-Cre/wt;Ai93(TITL-GCaMP6f)/wt%20%25%3Fx"),
    ],
)
def test_fields_are_quoted_by_where_they_stand(template: str, made: str) -> None:
    assert url(template, g=["Slc17a7-IRES2-Cre/wt;Ai93(TITL-GCaMP6f)/wt %?x"]) == [made]


def test_a_first_field_may_be_a_whole_url() -> None:
    assert url("{base}/x/{id}", base=["https://h:1/a b"], id=[5]) == ["https://h:1/a b/x/5"]
    assert url("{id}?at={base}", base=["https://h"], id=[5]) == ["5?at=https%3A%2F%2Fh"]


def test_path_fields_are_kept_and_q_makes_one_folder() -> None:
    genotype = ["Vip-IRES-Cre/wt;Ai148(x)/wt"]
    assert path("{g}/{g!q}/f.nwb", g=genotype) == ["Vip-IRES-Cre/wt;Ai148(x)/wt/Vip-IRES-Cre%2Fwt;Ai148(x)%2Fwt/f.nwb"]


def test_braces_and_literal_text() -> None:
    assert path("{{{a}}}-%s-{a}", a=["x{y}"]) == ["{x{y}}-%s-x{y}"]


@pytest.mark.parametrize(
    ("template", "values", "made"),
    [
        ("{id:012}", [1085755199.0, None], ["001085755199", None]),
        ("{id:05d}", [7.0, 8.0], ["00007", "00008"]),
        ("{id:>6}", [7.0], ["     7"]),
        ("{id:.1f}", [7.0], ["7.0"]),
        ("{id:.3}", [7.25], ["7.25"]),
        ("{id:e}", [7.0], ["7.000000e+00"]),
        ("{id:x}", [255], ["ff"]),
        ("{id:>5}", ["ab"], ["   ab"]),
        ("{id:%Y-%m-%d}", pd.to_datetime(["2020-01-02", None]), ["2020-01-02", None]),
        ("{id:04d}", pd.array([7, None], dtype="Int64"), ["0007", None]),
    ],
)
def test_format_specs(template: str, values: Any, made: list[str | None]) -> None:
    assert path(template, id=values) == made


def test_a_cell_that_a_spec_cannot_format_is_refused_alone() -> None:
    assert url("http://h/{id:05d}", id=[1, "x", 2.5, None]) == ["http://h/00001", None, None, None]
    refused = reasons("http://h/{id:05d}", id=[1, "x", 2.5, None])
    assert refused[1][1].startswith("expected a value that {id:05d} can format, got 'x': ")
    assert "got 2.5" in refused[2][1]
    assert "the cell is empty" in refused[3][1]


def test_index_levels_can_be_named() -> None:
    index = pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["day", "name"])
    rows = FrameRows(pd.DataFrame({"x": [5, 6]}, index=index))
    made, refused = Template("{day}/{name}-{x}", for_url=False).apply(rows)
    assert (made, refused) == (["1/a-5", "2/b-6"], {})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("plain", "names no column; expected one such as '{file_id}'"),
        ("", "names no column"),
        ("{{x}}", "names no column"),
        ("{x", "cannot be read: .*write {{ for a brace"),
        ("x}", "cannot be read"),
        ("{}", "the template '{}' has a field without a column's name; expected one such as '{file_id}'"),
        ("{:03}", "has a field without a column's name; expected"),
        ("{x!r}", "has a field with !r; only !q is known"),
    ],
)
def test_texts_that_are_no_template(template: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Template(template, for_url=True)


@pytest.mark.parametrize("end", ["/plain", "/{x", "/{}", "/{a!r}", "/{there_is_none}"])
def test_a_message_shows_no_login_of_a_template(end: str) -> None:
    with pytest.raises(PlanError) as refused:
        Template(f"http://me:c4n4ry@host{end}", for_url=True).check(FrameRows(pd.DataFrame({"a": [1]})))
    assert f"the template 'http://host{end}' " in str(refused.value)


def test_a_template_must_name_columns_of_the_table() -> None:
    with pytest.raises(PlanError, match=r"names the column 'x\.y'; the table has: a, b"):
        Template("{a}{x.y}", for_url=True).check(FrameRows(pd.DataFrame({"a": [1], "b": [2]})))


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5), st.booleans())
def test_what_a_template_quotes_can_be_undone_and_stays_in_its_part(cells: list[str], query: bool) -> None:
    cells = [cell.encode("utf-8", "ignore").decode() for cell in cells]
    made = url("http://h/?q={x}&z=1" if query else "http://h/a/{x!q}/b", x=pd.Series(cells, dtype=object))
    for cell, text in zip(cells, made, strict=True):
        if text is None:
            assert not cell.strip() or invisible_character(cell) or cell in ("nan", "NaT", "<NA>")
            continue
        parts = urlsplit(text)
        assert (parts.netloc, parts.fragment) == ("h", "")
        part = parts.query.removeprefix("q=").removesuffix("&z=1") if query else parts.path[3:-2]
        assert not set(part) & set("/?#&=")
        assert unquote(part) == cell
