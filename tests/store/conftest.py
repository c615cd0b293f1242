"""Folders and processes for the tests of the store."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framefetch.store.folder import CacheFolder
from tests.store.builders import Child


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Callable[..., CacheFolder]]:
    """Give a function that opens the cache folder of the test, as often as it likes."""
    opened: list[CacheFolder] = []

    def make(path: Path | None = None, **options: object) -> CacheFolder:
        opened.append(CacheFolder(path or tmp_path / "cache", **options))
        return opened[-1]

    yield make
    for folder in opened:
        folder.close()


@pytest.fixture
def folder(open_folder: Callable[..., CacheFolder]) -> CacheFolder:
    """Give an open cache folder, empty."""
    return open_folder()


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Give a function that starts a process."""
    started: list[Child] = []

    def make(script: str, *arguments: object) -> Child:
        started.append(Child(script, *arguments))
        return started[-1]

    yield make
    for child in started:
        child.close()
