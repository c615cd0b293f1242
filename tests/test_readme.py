"""Every snippet of the README runs, against a warehouse that holds what the snippets name."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from framefetch.ui.demo import make_table
from framefetch.warehouse import WarehouseThread, hdf5_file
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make the tables that the snippets read, in the working folder, and serve their files; give the tunnel's port."""
    monkeypatch.chdir(tmp_path)
    table = make_table()
    table["age_in_days"] = range(60, 120)
    table.to_csv("big_table.csv", index=False)
    table["file_id"] = table["wkf"].str.rpartition("/")[2].astype(float)
    table.drop(columns="wkf").to_csv("sessions.csv", index=False)
    with WarehouseThread() as warehouse:
        for row, name in enumerate(table["wkf"].str.rpartition("/")[2]):
            warehouse.add(name, hdf5_file(4000, seed=row))
        yield warehouse.port


def test_python_snippets_run_as_notebook_cells(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # another one that is active is IPython's concern, not ours
    shell = InteractiveShell.instance()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # IPython's own
            for snippet in snippets("python"):
                outcome = shell.run_cell(snippet.replace("localhost:8080", f"127.0.0.1:{place}"))
                outcome.raise_error()
        assert shell.user_ns["result"].ok.all()
        assert shell.user_ns["again"].summary()["rows"] == 0
        assert shell.user_ns["path"].is_file()
        assert len(shell.user_ns["files"]) == 20
    finally:
        for cache in {id(value): value for value in shell.user_ns.values() if hasattr(value, "close")}.values():
            if type(cache).__name__ == "MetadataCache":
                cache.close()
        InteractiveShell.clear_instance()


def test_shell_snippets_run(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])
    assert shutil.which("framefetch"), "the command is installed"
    commands = [
        line
        for snippet in snippets("sh")
        for line in snippet.replace("\\\n", " ").splitlines()
        if line.startswith("framefetch ")
    ]
    assert len(commands) == 7
    for command in commands:
        words = shlex.split(command.replace("localhost:8080", f"127.0.0.1:{place}"))
        if words[2] == "big_table.csv":
            words += ["--host-map", f"testwarehouse:9000=127.0.0.1:{place}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert len(Path("result.csv").read_text().splitlines()) == 30
    assert Path("data/cache/manifest.json").is_file()


def test_the_test_command_is_the_one_ci_runs() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert "<!-- command: test -->" in script
    assert re.search(r"<!-- command: test -->\n```sh\n.* -m pytest\n```", README)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / target).exists(), target
