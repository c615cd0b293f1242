"""How a file is named on disk: inside the root, storable everywhere, collisions always found."""

import os
import posixpath
import re
import unicodedata
from urllib.parse import unquote

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from framefetch.errors import PlanError, UnsafePath
from framefetch.options import TableOptions
from framefetch.table.naming import are_plain, check_version, default_name, fold, safe_component, safe_path
from framefetch.table.plan import plan_rows

UNSAFE = re.compile(r"[\x00-\x1f\x7f<>:\"/\\|?*\ud800-\udfff]")
DEVICE = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)")

#: Text rich in what is dangerous: dots, separators, devices, case, composed and decomposed letters, surrogates.
pieces = (
    *("..", ".", "/", "\\", "%2F", "%2e", "%00", ":", "con", "NUL", "aux.", "a", "A", "é", "e\u0301", "ß", "~", "-"),
    *(" ", "\x00", "\n", "\u200b", chr(0xD800), "日本", ".nwb", "COM¹", "*", "?", '"', "x" * 100, "é" * 130),
)
nasty = st.lists(st.sampled_from(pieces) | st.text(st.characters(exclude_categories=()), max_size=5), max_size=8).map(
    "".join
)


def assert_storable(component: str) -> None:
    assert component not in ("", ".", "..")
    assert len(component.encode()) <= 255
    assert not UNSAFE.search(component), component
    assert component[-1] not in ". ", component
    assert component[0] not in "-~"
    assert not DEVICE.match(component), component


@given(nasty.filter(bool))
@example("con .txt")
@example("COM¹.nwb")
@example("a" * 300 + ".")
@example("é" * 130 + ".nwb")
@example("x." + "a" * 300)
def test_every_component_can_be_stored(name: str) -> None:
    assert_storable(safe_component(name))
    assert safe_component(safe_component(name)) == safe_component(name)


@given(nasty)
@example("..%2f..%2fetc%2fpasswd")
def test_no_default_name_leaves_the_root(basename: str) -> None:
    try:
        name = default_name(basename, ".nwb")
    except UnsafePath:
        assert basename in ("", ".", "..")
        return
    assert_storable(name)


@given(nasty)
@example("/etc/passwd")
@example("a/../../b")
@example("C:/x")
@example("\\\\server\\share")
def test_no_templated_path_leaves_the_root(path: str) -> None:
    try:
        safe = safe_path(path)
    except UnsafePath:
        return
    for component in safe.split("/"):
        assert_storable(component)
    assert os.path.commonpath(["/root/cache", posixpath.normpath(f"/root/cache/{safe}")]) == "/root/cache"
    assert safe_path(safe) == safe


@pytest.mark.parametrize(
    ("basename", "name"),
    [
        ("1085755199", "1085755199.nwb"),
        ("a%20b.h5", "a b.h5"),
        ("a%2Fb.h5", "a%2Fb.h5"),
        ("%2e%2e", "%2e%2e.nwb"),
        ("a%00b", "a%00b.nwb"),
        ("%E9.nwb", "%E9.nwb"),
        ("%C3%A9.nwb", "é.nwb"),
        ("a%2520b.nwb", "a%20b.nwb"),
        ("aparc+aseg.mgz", "aparc+aseg.mgz"),
        ("Vip-IRES-Cre;Ai14(IVSCC)-226110.03.01.nwb", "Vip-IRES-Cre;Ai14(IVSCC)-226110.03.01.nwb"),
        (".lh.BA.thresh.annot.f3h5wZ", ".lh.BA.thresh.annot.f3h5wZ"),
        ("-rf", "%2Drf.nwb"),
        ("~root.nwb", "%7Eroot.nwb"),
        ("name. ", "name%2E%20"),
        ("CON.nwb", "%43ON.nwb"),
        ("console.nwb", "console.nwb"),
    ],
)
def test_default_names(basename: str, name: str) -> None:
    assert default_name(basename, ".nwb") == name


def test_no_suffix_is_added_where_none_is_wanted() -> None:
    assert default_name("1085755199", "") == "1085755199"


@pytest.mark.parametrize("basename", ["", ".", ".."])
def test_a_url_without_a_name_is_refused(basename: str) -> None:
    with pytest.raises(UnsafePath, match="expected a file name at the end of the URL, but it ends in"):
        default_name(basename, ".nwb")


def test_a_long_name_keeps_its_suffix_and_stays_unique() -> None:
    long, other = safe_component("é" * 130 + "1.nwb"), safe_component("é" * 130 + "2.nwb")
    assert len(long.encode()) == 255 or len(long.encode()) == 254
    assert long.endswith(".nwb")
    assert long != other
    assert safe_component("é" * 130 + "1.nwb") == long


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/allen/a.nwb", "the absolute path '/allen/a.nwb'"),
        ("\\share\\a", "absolute path"),
        ("C:\\a", "absolute path"),
        ("a/../b", "'.' or '..' in it"),
        ("a/./b", "'.' or '..' in it"),
        ("a/ .. /b", "'.' or '..' in it"),
        ("..", "'.' or '..' in it"),
        ("a/", "ends in a file name"),
        ("", "ends in a file name"),
        ("/".join(["a" * 200] * 20), "at most 3072 bytes, got 4019"),
    ],
)
def test_paths_that_are_refused_say_why(path: str, reason: str) -> None:
    with pytest.raises(UnsafePath) as caught:
        safe_path(path)
    assert reason in str(caught.value)


def test_paths_keep_what_is_safe() -> None:
    assert safe_path("sub-01/ses mri/anat//T1w.nii.gz") == "sub-01/ses mri/anat/T1w.nii.gz"
    assert safe_path("a/con/b:c.nwb") == "a/%63on/b%3Ac.nwb"
    assert safe_path("nul/x") == "%6Eul/x"


@given(st.text(max_size=20))
def test_fold_is_blind_to_case_and_unicode_form(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text))
    if text.isascii():
        assert fold(text.upper()) == fold(text.lower())


part = st.sampled_from(["a", "A", "b", "é", "e\u0301", "É", "straße", "STRASSE", "x.nwb", "X.NWB", "cc:", "cc%3A"])


@given(st.lists(st.lists(part, min_size=1, max_size=3).map("/".join), max_size=12))
def test_rows_that_want_one_place_are_all_refused(paths: list[str]) -> None:
    table = pd.DataFrame({"url": [f"http://h/{at}" for at in range(len(paths))], "path": paths})
    rows = plan_rows(table, TableOptions(path_template="{path}"), "v0")
    folded = [fold(safe_path(path)) for path in paths]
    for at, mine in enumerate(folded):
        others = folded[:at] + folded[at + 1 :]
        clash = any(mine == other or mine.startswith(other + "/") or other.startswith(mine + "/") for other in others)
        assert (rows.files[at] == -1) == clash, (paths[at], paths)
        assert (at in rows.errors) == clash


@pytest.mark.parametrize("version", ["v0", "2018-10-04", "release 1"])
def test_versions(version: str) -> None:
    assert check_version(version) == version


@pytest.mark.parametrize("version", ["", "..", "a/b", ".framefetch", "manifest.json", "MANIFEST.sqlite", "con", "v."])
def test_a_version_must_be_a_folder_of_its_own(version: str) -> None:
    with pytest.raises(PlanError, match="expected a version that can name a folder"):
        check_version(version)


@given(nasty.filter(lambda text: "%" not in text))
def test_escapes_can_be_undone(name: str) -> None:
    safe = safe_component(name)
    if len(safe.encode()) < 250:
        assert unquote(safe, errors="surrogatepass") == name


@given(st.lists(nasty | st.sampled_from(("a.nwb", "b.h5", "x", ".y", "con.a", "COM1.b", "a.")), min_size=1, max_size=4))
@example(["a.nwb\nb.nwb"])
@example(["a.b\n"])
@example(["conin$\n.b"])
@example(["x" * 177 + ".nwb"])
@example(["x" * 178 + ".nwb"])
def test_names_that_are_plain_together_are_so_each(names: list[str]) -> None:
    each = all(re.fullmatch(r"[A-Za-z0-9]+\.[a-z0-9]+", name) and not DEVICE.match(name) for name in names)
    if are_plain(names):
        assert [default_name(name, ".nwb") for name in names] == names
    else:
        assert not each or max(map(len, names)) > 181


@given(
    st.lists(
        st.sampled_from(("a.nwb", "A.nwb", "b", "c/a.nwb", "con.x", "d.", "e.nwb", "%41.nwb", "f@g.x")), max_size=6
    ),
    st.sampled_from(("http://h/z?q=1", "http://h/z#f", "http://me:pw@h/z.nwb", "http://h/é.nwb", " http://h/z ")),
)
def test_one_odd_row_changes_nothing_for_plain_ones(names: list[str], odd: str) -> None:
    urls = [f"http://h/{row}/{name}" for row, name in enumerate(names)]

    def planned(urls: list[str]) -> list[tuple[object, ...]]:
        rows = plan_rows(pd.DataFrame({"url": urls}, dtype=object), TableOptions(), "v0")
        files = rows.files.tolist()[: len(names)]
        return [
            (rows.requests.keys[file], rows.requests.urls[file], rows.requests.names[file])
            if file >= 0
            else (str(rows.errors[row]),)
            for row, file in enumerate(files)
        ]

    assert planned(urls) == planned([*urls, odd])


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_what_is_not_in_ascii_has_a_name_only_where_names_are_in_utf8(monkeypatch, encoding) -> None:
    assert default_name("%C3%A9.nwb", "") == safe_path("é.nwb") == check_version("é") + ".nwb" == "é.nwb"
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: encoding)
    for name in (lambda: default_name("%C3%A9.nwb", ""), lambda: safe_path("a/é.nwb")):
        with pytest.raises(UnsafePath, match=f"file names are in {encoding} in the locale .*PYTHONUTF8=1"):
            name()
    with pytest.raises(PlanError, match="the version names a folder: expected a path in ASCII"):
        check_version("é")
    assert default_name("a%20b", ".nwb") == "a b.nwb"
