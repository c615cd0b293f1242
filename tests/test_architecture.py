"""The drawn structure is the built one: who may import whom, who owns which library, how long things may get."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import framefetch

SOURCE = Path(framefetch.__file__).parent
REPOSITORY = Path(__file__).parents[1]
MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}

#: Which of our rooms each room may import, besides itself. A room is the first name below the package.
VALUES = {"errors", "models", "options", "events", "urls"}
LAW: dict[str, set[str]] = {
    "urls": set(),
    "errors": set(),
    "models": {"errors"},
    "events": {"errors", "models"},
    "options": {"errors", "models", "events"},
    "table": VALUES,
    "native": set(),
    "threads": set(),
    "sources": VALUES | {"native.at_once", "threads"},
    "store": VALUES | {"native.at_once", "native.calls", "threads"},
    "engine": VALUES | {"sources", "store.files", "threads"},
    "portal": {"threads"},
    "claims": {"models"},
    "lookup": VALUES | {"table", "store"},
    "run": VALUES | {"table", "sources", "store", "engine", "claims", "lookup"},
    "works": VALUES | {"table", "sources", "store", "engine", "portal", "claims", "job"},
    "job": VALUES | {"table", "store", "engine", "portal", "run", "works"},
    "cache": VALUES | {"table", "store", "engine", "threads", "works", "job", "lookup"},
    "warehouse": set(),
    "ui": VALUES | {"table", "store", "works", "job", "cache", "warehouse"},
    "__init__": VALUES | {"table", "cache", "ui"},
    "__main__": {"ui"},
}
#: Third parties have one owner each.
OWNERS = {
    "pandas": {"table", "cache", "ui"},  # cache and ui hand frames on; only table looks into them
    "numpy": {"table", "cache", "lookup", "run"},
    "aiohttp": {"sources.tunnel", "warehouse"},
    "aiohappyeyeballs": {"sources"},
    "yarl": {"sources.tunnel"},
    "sqlite3": {"store"},
    "aiofiles": {"store"},
    "filelock": {"store"},
    "tenacity": {"engine.retry"},
    "uvloop": {"portal"},
    "rich": {"ui"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


def allowed(target: str, permitted: set[str]) -> bool:
    return any(target == name or target.startswith(name + ".") for name in permitted)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_import_only_what_the_law_allows(path: Path) -> None:
    module = name_of(path)
    room = module.split(".")[0]
    for target in imports(MODULES[path]):
        if target == "framefetch" or not target.startswith("framefetch."):
            continue
        below = target.removeprefix("framefetch.")
        assert allowed(below, LAW[room] | {room}), f"{module} imports {target}; the law allows {sorted(LAW[room])}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_third_parties_have_one_owner(path: Path) -> None:
    module = name_of(path)
    for target in imports(MODULES[path]):
        library = target.split(".")[0]
        if library in OWNERS:
            assert allowed(module, OWNERS[library]), f"{module} imports {library}, which belongs to {OWNERS[library]}"


def test_environment_is_read_only_at_the_edge() -> None:
    for path, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "getproxies"):
                assert name_of(path).split(".")[0] in ("works", "ui"), f"{name_of(path)} reads the environment"


def functions() -> Iterator[tuple[str, int, int]]:
    for path, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                has_doc = isinstance(first, ast.Expr) and isinstance(getattr(first, "value", None), ast.Constant)
                doc = first.end_lineno - first.lineno + 1 if has_doc else 0
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
                yield f"{name_of(path)}:{node.name}", node.end_lineno - node.lineno + 1 - doc, len(named)


def test_tail_of_functions_and_modules() -> None:
    lengths = sorted(length for _, length, _ in functions())
    assert lengths[int(len(lengths) * 0.9)] <= 30, "p90 of function bodies"
    assert [name for name, length, _ in functions() if length > 60] == []
    # The one exception is the prototype's constructor with its five groups (DESIGN's public interface).
    assert [name for name, _, count in functions() if count > 6] == ["cache:__init__"]
    assert [name_of(path) for path in MODULES if len(path.read_text().splitlines()) > 400] == []


def test_public_names_are_there_and_no_others() -> None:
    for name in framefetch.__all__:
        assert getattr(framefetch, name).__doc__, name
    assert sorted(framefetch.__all__) == framefetch.__all__
    with pytest.raises(AttributeError, match="no attribute 'Downloader'"):
        framefetch.Downloader  # noqa: B018


def test_the_lowest_versions_that_are_tried_are_those_that_are_allowed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    stated = [*project["dependencies"], *extras["parquet"], *extras["test"]]
    allowed = {
        name: version for text in stated for name, _, version in [text.partition(";")[0].strip().partition(">=")]
    }
    lines = (REPOSITORY / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    tried = dict(line.split("==") for line in lines if not line.startswith("#"))
    only_read = {"mypy", "pandas-stubs", "ruff", "types-aiofiles", "framefetch[parquet]"}  # not run by any test
    assert tried.keys() == allowed.keys() - only_read
    assert {name for name in tried if not f"{tried[name]}.".startswith(f"{allowed[name]}.")} == set()
