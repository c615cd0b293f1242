"""The small real files that the repository carries, through a real nginx where there is one."""

from collections.abc import Callable
from pathlib import Path

import h5py
import pandas as pd
import pytest

from framefetch import MetadataCache, TableOptions
from framefetch.warehouse import WarehouseThread
from tests.nginx import Nginx


@pytest.mark.nginx
def test_real_files_with_stated_digests_through_nginx(
    fixture_data: Path, tmp_path: Path, nginx: Callable[..., Nginx]
) -> None:
    server = nginx(fixture_data / "nwb")
    table = pd.read_csv(fixture_data / "nwb" / "INDEX.csv")
    options = TableOptions(url_template=f"http://{server.host}/{{file}}")
    with MetadataCache(table, tmp_path / "cache", table=options) as cache:
        result = cache.mirror(table)
        result.raise_for_failures()
        assert result.frame["md5"].tolist() == table["md5"].tolist()
        assert result.frame["size"].tolist() == table["size"].tolist()
        assert set(result.frame["verified"]) == {"digest"}
        for path in result.paths:
            with h5py.File(path) as opened:
                assert "nwb_version" in opened or "nwb_version" in opened.attrs
        assert cache.mirror(table).summary()["requests"] == 0
    assert server.requests() == 4


def test_tables_of_two_mirrors_in_one_cell(fixture_data: Path, tmp_path: Path, warehouse: WarehouseThread) -> None:
    """DANDI's table names each file twice; the first address ends in /download/, which is no name."""
    table = pd.read_csv(fixture_data / "dandi_000020_head.csv")
    plain = MetadataCache(table, tmp_path / "a", table=TableOptions(url_column="urls", sha256_column="hash"))
    plan = plain.plan(table)
    assert set(plan.frame["status"]) == {"invalid"}
    assert plan.frame["error"].str.contains("it ends in '/'; give a path template").all()
    plain.close()
    options = TableOptions(url_column="urls", path_template="{path}", sha256_column="hash")
    with MetadataCache(table, tmp_path / "b", table=options) as cache:
        plan = cache.plan(table)
        assert plan.summary()["to_fetch"] == 20
        assert plan.frame["path"].iloc[0] == "v0/" + table["path"].iloc[0]
        assert plan.rows.requests[0].urls == tuple(table["urls"].iloc[0].split())


def test_a_table_without_urls_takes_a_template(fixture_data: Path, tmp_path: Path, warehouse: WarehouseThread) -> None:
    """OpenNeuro's table holds S3 keys: with folders, a leading dot, and names that repeat in other folders."""
    table = pd.read_csv(fixture_data / "openneuro_ds000117_head.csv").head(6)
    for key in table["s3_key"]:
        warehouse.add("/" + key, key.encode())
    options = TableOptions(
        url_template=warehouse.base_url + "/{s3_key}?versionId={s3_version_id}", path_template="{path}"
    )
    table = table.drop(columns=["size"])
    with MetadataCache(table, tmp_path / "cache", table=options) as cache:
        result = cache.mirror(table)
        assert result.ok.all(), result.failed["error"].tolist()
        for path, name, key in zip(result.paths, table["path"], table["s3_key"], strict=True):
            assert path.endswith("/v0/" + name)
            assert Path(path).read_bytes() == key.encode()
    asked = {record.target.partition("?versionId=")[2] for record in warehouse.requests()}
    assert asked == set(table["s3_version_id"])
