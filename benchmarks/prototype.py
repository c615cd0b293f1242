"""The project's beginning, kept as the notebook had it, to measure against.

One file at a time; a new session for each; the whole body in memory; a second read to hash it; the whole
``manifest.json`` written anew for each file; and the file hashed once more when it is asked for. Run as a program:
``prototype.py TABLE DIR``.
"""

import asyncio
import hashlib
import json
import os
import sys
import warnings

import aiofiles
import aiohttp
import pandas as pd


class MetadataCache:
    """A table, a folder of files, and a JSON of what is in it."""

    def __init__(self, metadata_file, cache_dir="data/cache"):
        self.cache_dir = cache_dir
        self.manifest_path = os.path.join(cache_dir, "manifest.json")
        self.dataframe = pd.read_csv(metadata_file)
        os.makedirs(cache_dir, exist_ok=True)
        self.manifest = self._load_manifest()

    def _load_manifest(self):
        if not os.path.exists(self.manifest_path):
            return {}
        with open(self.manifest_path) as file:
            return json.load(file)

    def update_manifest(self):
        with open(self.manifest_path, "w") as file:
            json.dump(self.manifest, file, indent=4)

    def get_all(self, column):
        return set(self.dataframe[column])

    async def get_file(self, file_url, file_version="v0"):
        """Return where a file is; fetch it first where it is not there; hash it in any case."""
        entry = self.manifest.get(file_version, {}).get(file_url)
        if entry is None or not os.path.exists(entry["file_path"]):  # noqa: ASYNC240 - as the notebook had it
            entry = await self._download_file(file_url, file_version)
        if self._calculate_md5(entry["file_path"]) != entry["md5_checksum"]:
            warnings.warn(f"checksum changed: {entry['file_path']}", stacklevel=2)
        return entry["file_path"]

    async def get_all_files(self, df, file_version="v0"):
        return {url: await self.get_file(url, file_version) for url in df["url"]}

    async def _download_file(self, file_url, file_version):
        path = os.path.join(self.cache_dir, file_version, os.path.basename(file_url))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        async with aiohttp.ClientSession() as session, session.get(file_url) as response:
            response.raise_for_status()
            async with aiofiles.open(path, "wb") as file:
                await file.write(await response.read())
        entry = {"file_path": path, "md5_checksum": self._calculate_md5(path)}
        self.manifest.setdefault(file_version, {})[file_url] = entry
        self.update_manifest()
        return entry

    @staticmethod
    def _calculate_md5(path):
        md5 = hashlib.md5()
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(4096), b""):
                md5.update(block)
        return md5.hexdigest()


def main():
    table, folder = sys.argv[1:]
    cache = MetadataCache(table, folder)
    asyncio.run(cache.get_all_files(cache.dataframe))


if __name__ == "__main__":
    main()
