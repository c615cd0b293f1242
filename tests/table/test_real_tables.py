"""Real tables of public archives, with the hazards that are really in them."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from framefetch.options import TableOptions
from framefetch.table.plan import plan_rows
from framefetch.table.planned import PlannedRows
from framefetch.table.read import query_table, read_table

pytestmark = pytest.mark.shared


def planned(table: pd.DataFrame, **options: str) -> PlannedRows:
    rows = plan_rows(table, TableOptions(**options), "v0")
    assert len(rows.files) == len(table)
    assert rows.index.equals(table.index)
    return rows


def errors(rows: PlannedRows) -> str:
    return "\n".join(map(str, rows.errors.values()))


def test_allen_behavior_sessions_ids_with_gaps(shared_data: Path) -> None:
    table = read_table(shared_data / "tables/allen_vbo_2023-01/behavior_session_table.csv")
    rows = planned(table, url_template="http://testwarehouse:9000/api/v2/well_known_file_download/{file_id}")
    assert rows.requests[0].urls == ("http://testwarehouse:9000/api/v2/well_known_file_download/1085755199",)
    assert rows.requests[0].path == "v0/1085755199.nwb"
    assert (len(rows.errors), len(rows.requests)) == (705, 4787 - 705)
    assert errors(rows).count("column 'file_id': expected a value for the URL template, but the cell is empty") == 705
    subset = query_table(table, "full_genotype == 'Vip-IRES-Cre/wt;Ai148(TIT2L-GC6f-ICL-tTA2)/wt'")
    assert 0 < len(subset) < len(table)
    assert set(subset["full_genotype"]) == {"Vip-IRES-Cre/wt;Ai148(TIT2L-GC6f-ICL-tTA2)/wt"}


def test_allen_storage_paths_are_absolute_and_refused(shared_data: Path) -> None:
    table = read_table(shared_data / "tables/allen_vbo_2023-01/ophys_experiment_table.csv")
    rows = planned(table, url_template="http://h/{file_id}", path_template="{isilon_filepath}")
    assert len(rows.errors) == 1941
    assert errors(rows).count("expected a path below the cache, got the absolute path '/") == 1941


def test_a_genotype_with_q_is_one_folder(shared_data: Path) -> None:
    table = read_table(shared_data / "tables/allen_vbo_2023-01/ophys_experiment_table.csv").head(200)
    rows = planned(table, url_template="http://h/{file_id}", path_template="{full_genotype!q}/{file_id}.nwb")
    assert not rows.errors
    assert {name.count("/") for name in rows.requests.names} == {1}


def test_relative_paths_and_sentinel_ids(shared_data: Path) -> None:
    table = read_table(shared_data / "tables/allen_vbo_2023-08_relpaths/behavior_session_table.csv")
    assert len(planned(table, url_template="http://h/{file_id}").requests) == 1
    rows = planned(table, url_template="http://h/{file_path}", path_template="{file_path}")
    assert len(rows.errors) == 704
    used = sorted(set(rows.files.tolist()) - {-1})
    assert all(rows.requests.names[file].count("/") == 1 for file in used)


def test_links_of_the_allen_api_and_seven_sentences(shared_data: Path) -> None:
    table = read_table(shared_data / "tables/allen_api/ecephys_download_links.csv")
    for base in ({}, {"base_url": "http://api.brain-map.org"}):
        rows = planned(table, url_column="link", **base)
        assert len(rows.errors) == 7
        assert all(text.startswith("file for probe ") for text in rows.texts.values())
        assert rows.requests.names[0] == "1026124469.nwb"
        assert rows.requests.urls[0] == "http://api.brain-map.org//api/v2/well_known_file_download/1026124469"


def test_cell_types_urls_without_a_host(shared_data: Path) -> None:
    table = read_table(shared_data / "tables/allen_cell_types/cell_types_specimen_details.csv")
    column = table["morph_thumb_path"]
    alone = planned(table, url_column="morph_thumb_path")
    assert len(alone.errors) == len(table)
    assert "a base_url would complete it" in errors(alone)
    rows = planned(table, url_column="morph_thumb_path", base_url="http://api.brain-map.org")
    assert len(rows.errors) == column.isna().sum()
    first = int(column.notna().to_numpy().argmax())
    assert rows.requests[int(rows.files[first])].urls[0] == "http://api.brain-map.org" + column.iloc[first]


def test_encode_states_url_md5_and_size(shared_data: Path) -> None:
    table = read_table(shared_data / "tables/encode/metadata.tsv")
    rows = planned(table, url_column="File download URL", md5_column="md5sum", size_column="Size")
    assert not rows.errors
    request = rows.requests[0]
    assert request.path == "v0/ENCFF409RWY.bigWig"
    assert request.key == "https://www.encodeproject.org/files/ENCFF409RWY/@@download/ENCFF409RWY.bigWig"
    assert (request.size, str(request.digests[0])) == (454_165_925, "md5:8d841d145932fba0249a28e780226257")
    assert rows.requests.total_bytes(rows.files)[0] == int(table["Size"].sum())


def test_ibl_index_levels_gaps_and_folders(shared_data: Path) -> None:
    table = read_table(shared_data / "tables/ibl_one/datasets.pqt")
    rows = planned(
        table,
        url_template="https://ibl/{session_path}/{rel_path}?id={id_0}",
        path_template="{session_path}/{rel_path}",
        md5_column="hash",
    )
    assert (
        sum(len(rows.requests.stated(file)) for file in set(rows.files.tolist()) - {-1}) == table["hash"].notna().sum()
    )
    assert sum(size >= 0 for size in rows.requests.sizes) == table["file_size"].notna().sum()
    assert all("is also that of" in str(error) for error in rows.errors.values())


@pytest.mark.parametrize(("name", "mirrors"), [("000020.csv", {2}), ("000728.csv", {2})])
def test_dandi_mirrors_and_digests(shared_data: Path, name: str, mirrors: set[int]) -> None:
    table = read_table(shared_data / "manifests/annex" / f"dandi_{name}")
    rows = planned(table, url_column="urls", path_template="{path}", sha256_column="hash")
    assert not rows.errors
    assert {len(rows.requests[file].urls) for file in range(len(rows.requests))} == mirrors
    assert list(rows.requests.names) == table["path"].tolist()
    assert rows.requests[0].digests[0].hex == table["hash"].iloc[0]
    unnamed = planned(table, url_column="urls")
    assert len(unnamed.errors) == len(table)
    assert "it ends in '/'; give a path template: https://api.dandiarchive.org/" in errors(unnamed)


def test_dandi_000026_files_that_share_all_urls_are_copies(shared_data: Path) -> None:
    table = read_table(shared_data / "manifests/annex/dandi_000026.csv.gz")
    rows = planned(table, url_column="urls", path_template="{path}", sha256_column="hash")
    assert not rows.errors
    assert len(rows.requests) == 28_899
    assert len(rows.requests.copy_of) == 13
    assert rows.requests.total_bytes(rows.files) == (int(table["size"].sum()), 0)
    assert {len(rows.requests[file].urls) for file in range(len(rows.requests))} >= {2, 10}


@pytest.mark.parametrize(
    ("name", "collisions"),
    [("ds001734.csv.gz", 30_000), ("ds001226.csv", 3782), ("ds000117.csv", 733), ("ds000224.csv", 327)],
)
def test_openneuro_basenames_collide_and_paths_do_not(shared_data: Path, name: str, collisions: int) -> None:
    table = read_table(shared_data / "manifests/annex" / f"openneuro_{name}")
    url = "https://s3.amazonaws.com/openneuro.org/{s3_key}?versionId={s3_version_id}"
    known = table[table["s3_key"].notna() & table["s3_version_id"].notna()]
    rows = planned(known, url_template=url, path_template="{path}", md5_column="hash")
    assert not rows.errors
    assert list(rows.requests.names) == known["path"].tolist()
    flat = planned(known, url_template=url, md5_column="hash")
    assert len(flat.errors) > collisions * len(known) / len(table)
    assert all(re.search(r" of row \d+; give a path template: ", str(error)) for error in flat.errors.values())


def test_blanks_and_plus_signs_are_quoted_and_kept(shared_data: Path) -> None:
    table = read_table(shared_data / "manifests/annex/openneuro_ds001226.csv")
    rows = planned(table, url_template="https://h/{path}", path_template="{path}")
    position = int(table["path"].str.contains("reports pdf").to_numpy().argmax())
    request = rows.requests[int(rows.files[position])]
    assert "/reports%20pdf/" in request.urls[0]
    assert "/reports pdf/" in request.path
    plus = planned(pd.DataFrame({"path": ["mri/aparc+aseg.mgz"]}), url_template="https://h/{path}")
    assert plus.requests[0].urls == ("https://h/mri/aparc+aseg.mgz",)


@pytest.mark.parametrize("name", ["000017", "000021", "000023", "000037", "000579"])
def test_dandi_assets_lists_of_urls_and_etags(shared_data: Path, name: str) -> None:
    assets = json.loads((shared_data / f"manifests/dandi_assets/{name}.assets.json").read_text())
    table = pd.DataFrame(
        {
            "path": [asset["path"] for asset in assets],
            "url": [asset["metadata"]["contentUrl"] for asset in assets],
            "size": [asset["metadata"]["contentSize"] for asset in assets],
            "sha256": [asset["metadata"]["digest"].get("dandi:sha2-256") for asset in assets],
            "etag": [asset["metadata"]["digest"]["dandi:dandi-etag"] for asset in assets],
        }
    )
    rows = planned(table, path_template="{path}")
    assert not rows.errors
    assert rows.requests[0].urls == tuple(table["url"].iloc[0])
    assert rows.requests[0].size == table["size"].iloc[0]
    etags = planned(table, path_template="{path}", md5_column="etag")
    assert len(etags.errors) == len(table)
    assert errors(etags).count("column 'etag': expected the 32 hex digits of a md5 digest") == len(table)


def test_gdc_manifest(shared_data: Path) -> None:
    table = read_table(shared_data / "manifests/gdc/gdc_manifest_tcga_brca.txt")
    rows = planned(table, url_template="https://api.gdc.cancer.gov/data/{id}", path_template="{id}/{filename}")
    assert not rows.errors
    assert rows.notes == ("md5 from column 'md5'", "sizes from column 'size'")
    assert str(rows.requests[0].digests[0]) == "md5:0948d5b1ea684cd62a6ec7dafbeda026"
    assert rows.requests[0].size == 4_235_051


def test_registries_padded_with_blanks_and_with_prefixes(shared_data: Path) -> None:
    folder = shared_data / "manifests/registries"
    lines = (folder / "mne_eegbci_checksums.txt").read_text().splitlines()
    table = pd.DataFrame([line.split(" ", 1) for line in lines], columns=["path", "sha256"])
    rows = planned(table, url_template="https://physionet.org/{path}", path_template="{path}")
    assert not rows.errors
    assert len(rows.requests) == len(table)
    listed = (folder / "mne_dataset_checksums.txt").read_text().splitlines()
    named = [line.split() for line in listed if line and not line.startswith("#")]
    rows = planned(pd.DataFrame(named, columns=["n", "d"]), url_template="https://h/{n}", digest_column="d")
    assert not rows.errors
    assert set(rows.requests.digests) == {"md5"}


def test_names_in_other_scripts_keep_their_letters(shared_data: Path) -> None:
    listings = sorted((shared_data / "manifests/nonascii").glob("*.lst"))
    quoted = {name for path in listings for name in re.findall(r'"(.+)"', path.read_text(encoding="utf-8"))}
    names = sorted(re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), name) for name in quoted)
    assert any(not name.isascii() for name in names)
    rows = planned(pd.DataFrame({"n": names}), url_template="https://h/{n}", path_template="{n}")
    assert {names[position] for position in rows.errors} == {
        name for name in names if any(other.startswith(name + "/") or name.startswith(other + "/") for other in names)
    }
    for position, file in enumerate(rows.files.tolist()):
        if file >= 0:
            assert rows.requests.names[file] == names[position].replace("\\", "%5C")
