"""The Visual Behavior table against a real nginx that serves real NWB files: the main job, on real input."""

import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pandas as pd
import pytest

from framefetch import MetadataCache
from tests.nginx import Nginx

BELOW = "api/v2/well_known_file_download"
TEMPLATE = "http://testwarehouse:9000/" + BELOW + "/{file_id}"

pytestmark = [pytest.mark.shared, pytest.mark.nginx]


@pytest.fixture
def served(shared_data: Path, tmp_path: Path, nginx: Callable[..., Nginx]) -> tuple[Nginx, Path, dict[str, Path]]:
    """Serve an NWB file for every file id of the table; return the server, the table and what each id is."""
    table = shared_data / "tables" / "allen_vbo_2023-01" / "behavior_session_table.csv"
    folder = tmp_path / "www" / BELOW
    folder.mkdir(parents=True)
    files = sorted((shared_data / "nwb").rglob("*.nwb"))
    ids = pd.read_csv(table)["file_id"].dropna().astype(int).astype(str)
    of = dict(zip(ids, itertools.cycle(files), strict=False))
    for name, file in of.items():
        (folder / name).symlink_to(file)
    return nginx(tmp_path / "www"), table, of


def mirror(table: Path, cache: Path, server: Nginx, *words: object) -> tuple[int, dict[str, int], str]:
    done = subprocess.run(
        [
            sys.executable, "-m", "framefetch", "mirror", table, cache, "--json", "--url-template", TEMPLATE,
            "--host-map", f"testwarehouse:9000={server.host}", *words,
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.timeout(180)
def test_the_whole_visual_behavior_table(served, tmp_path: Path) -> None:
    server, table, of = served
    cache = tmp_path / "cache"
    code, figures, errors = mirror(table, cache, server, "--report", tmp_path / "report.csv")
    assert code == 1
    assert (figures["downloaded"], figures["invalid"], figures["failed"]) == (4082, 705, 0)
    assert figures["requests"] == server.requests() == 4082
    assert "column 'file_id': expected a value for the URL template" in errors
    assert (cache / "v0" / "1085755199.nwb").is_file()
    report = pd.read_csv(tmp_path / "report.csv")
    assert len(report) == 4787
    assert report.loc[report["status"] == "invalid", "error"].notna().all()
    digests = {file: hashlib.md5(file.read_bytes()).hexdigest() for file in set(of.values())}
    for name, file in of.items():
        assert hashlib.md5((cache / "v0" / f"{name}.nwb").read_bytes()).hexdigest() == digests[file]
    assert set(report["md5"].dropna()) == set(digests.values())
    for name in list(of)[:3]:
        with h5py.File(cache / "v0" / f"{name}.nwb") as opened:
            assert opened.id.valid  # one of the real files is a valid but empty one

    code, figures, _ = mirror(table, cache, server, "--where", "file_id.notna()")
    assert (code, figures["cached"], figures["requests"], figures["rows"]) == (0, 4082, 0, 4082)
    assert server.requests() == 4082


def test_the_prototypes_notebook_cell_by_cell(served, tmp_path: Path) -> None:
    server, table, of = served
    # The release has no URL column; the notebook's table has one, made from the id.
    big_table = pd.read_csv(table)
    known = big_table["file_id"].notna()
    big_table.loc[known, "wkf"] = (
        "http://testwarehouse:9000/" + BELOW + "/" + big_table.loc[known, "file_id"].astype(int).astype(str)
    )
    big_table.to_csv(tmp_path / "big_table.csv", index=False)

    cache = MetadataCache(tmp_path / "big_table.csv", tmp_path / "cache", host_map={"testwarehouse:9000": server.host})
    assert len(cache.dataframe) == 4787
    assert cache.get_all_genotypes() == set(big_table["full_genotype"])
    assert cache.get_all_reporter_lines() == set(big_table["reporter_line"].dropna())
    assert cache.get_all_targeted_structures() is None  # it is in the experiment table
    genotype = "'Vip-IRES-Cre/wt;Ai148(TIT2L-GC6f-ICL-tTA2)/wt'"
    subset = cache.dataframe.query(f"full_genotype == {genotype} and file_id.notna()").head(40)
    assert len(subset) == 40
    path = cache.get_file("http://testwarehouse:9000/" + BELOW + "/1085755199", "v0")
    assert path.read_bytes() == of["1085755199"].read_bytes()
    files = cache.get_all_files(subset, "v0")
    assert list(files) == subset["wkf"].tolist()
    assert all(file.read_bytes() == of[file.stem].read_bytes() for file in files.values())
    manifest = json.loads(cache.update_manifest().read_text())
    assert (
        manifest["v0"][next(iter(files))]["md5_checksum"]
        == hashlib.md5(next(iter(files.values())).read_bytes()).hexdigest()
    )
    before = server.requests()
    cache.get_all_files(subset, "v0")
    assert server.requests() == before
    cache.close()


def test_published_checksums(shared_data: Path, tmp_path: Path, nginx: Callable[..., Nginx]) -> None:
    """The pointers of the ipfx repository state sha256 and size of five files that are here: they must agree."""
    rows = []
    for pointer in sorted((shared_data / "manifests" / "lfs_pointers" / "ipfx").rglob("*.nwb")):
        fields = dict(line.split(" ", 1) for line in pointer.read_text().splitlines())
        rows.append(
            {"name": pointer.name, "sha256": fields["oid"].removeprefix("sha256:"), "size": int(fields["size"])}
        )
    table = pd.DataFrame(rows)
    table = table[[(shared_data / "nwb" / "ipfx" / name).is_file() for name in table["name"]]]
    assert len(table) == 5
    server = nginx(shared_data / "nwb" / "ipfx")
    from framefetch import TableOptions

    options = TableOptions(url_template=f"http://{server.host}/{{name}}")
    with MetadataCache(table, tmp_path / "cache", table=options) as cache:
        result = cache.mirror(table)
        assert result.frame["verified"].tolist() == ["digest"] * 5
    pointers = nginx(shared_data / "manifests" / "lfs_pointers" / "ipfx" / "tests" / "data")
    bare = table[["name"]].assign(url=f"http://{pointers.host}/" + table["name"])
    with MetadataCache(bare, tmp_path / "other") as cache:  # what one gets from the wrong address
        result = cache.mirror(bare)
        assert set(result.frame["error_type"]) == {"ContentMismatch"}
        assert "git-LFS pointer" in result.frame["error"].iloc[0]
