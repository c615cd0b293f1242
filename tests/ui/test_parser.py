"""The words of a command line: what they mean, and what is said where they mean nothing."""

import tomllib
from dataclasses import dataclass
from typing import Annotated

import pytest

from framefetch.ui.arguments import ImportArguments, MirrorArguments, PruneArguments, RebuildArguments
from framefetch.ui.cli import ABOUT, COMMANDS
from framefetch.ui.parser import Argument, Command, Option, parse
from tests.conftest import REPOSITORY


def parsed(*words: str) -> object:
    """Return the arguments of a command of ours."""
    return parse(ABOUT, COMMANDS, words)[1]


MEANT = {
    "mirror t.csv c": MirrorArguments("t.csv", "c"),
    "mirror --limit 3 t.csv --quiet c --json": MirrorArguments("t.csv", "c", limit=3, quiet=True, json=True),
    "mirror t.csv c --limit=0": MirrorArguments("t.csv", "c", limit=0),
    "mirror t.csv c --stall-timeout 2.5": MirrorArguments("t.csv", "c", stall_timeout=2.5),
    "mirror t.csv c --attempts 1 --attempts 2": MirrorArguments("t.csv", "c", attempts=2),
    "mirror t.csv c --host-map a=b --report 1.csv --host-map c=d --report 2.json": MirrorArguments(
        "t.csv", "c", host_map=["a=b", "c=d"], report=["1.csv", "2.json"]
    ),
    "mirror -- -t.csv --quiet": MirrorArguments("-t.csv", "--quiet"),
    "mirror --quiet -- -t.csv c": MirrorArguments("-t.csv", "c", quiet=True),
    "mirror t.csv -- c": MirrorArguments("t.csv", "c"),
    "mirror t.csv c --suffix=-raw.nwb": MirrorArguments("t.csv", "c", suffix="-raw.nwb"),
    "mirror t.csv c --suffix=": MirrorArguments("t.csv", "c", suffix=""),
    "mirror t.csv c --base-url=http://h/?a=b": MirrorArguments("t.csv", "c", base_url="http://h/?a=b"),
    "mirror prune verify": MirrorArguments("prune", "verify"),
    "prune c --keep t.csv --yes": PruneArguments("c", "t.csv", yes=True),
    "prune --keep=-t.csv c": PruneArguments("c", "-t.csv"),
    "rebuild c": RebuildArguments("c"),
    "import c m.json --host-map a=b": ImportArguments("c", "m.json", ["a=b"]),
}


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize(("words", "meant"), MEANT.items(), ids=MEANT.keys())
def test_what_words_mean(words: str, meant: object) -> None:
    assert parsed(*words.split(" ")) == meant


@pytest.mark.parametrize(("word", "suffix"), [("h5", ".h5"), ("tar.gz", ".tar.gz"), (".nwb", ".nwb"), ("", "")])
@pytest.mark.parametrize("command", ["mirror t.csv c", "prune c --keep t.csv", "rebuild c"])
def test_a_suffix_may_be_said_without_its_dot(command: str, word: str, suffix: str) -> None:
    assert parsed(*command.split(), f"--suffix={word}").table_options().suffix == suffix
    assert parsed(*command.split(), "--suffix=-raw.nwb").table_options().suffix == "-raw.nwb"


def test_a_value_with_spaces_may_begin_with_a_dash() -> None:
    assert parsed("mirror", "t.csv", "c", "--where", "-x > 3 and y != '%'").where == "-x > 3 and y != '%'"


def test_each_command_runs_what_it_says() -> None:
    wanted = {"prune": ["c", "--keep", "t.csv"], "status": ["c"], "verify": ["c"], "rebuild": ["c"], "demo": []}
    for command in COMMANDS:
        chosen, arguments = parse(ABOUT, COMMANDS, [command.name, *wanted.get(command.name, ["one", "two"])])
        assert chosen is command
        assert type(arguments) is command.arguments


@pytest.mark.parametrize(
    ("words", "said", "whose"),
    [
        ("prune c", "arguments are required: --keep", "framefetch prune"),
        ("mirror t.csv", "arguments are required: CACHE_DIR", "framefetch mirror"),
        ("mirror", "arguments are required: TABLE, CACHE_DIR", "framefetch mirror"),
        ("nonsense t.csv c", "invalid choice: 'nonsense'", "framefetch"),
        ("--quiet", "arguments are required: COMMAND", "framefetch"),
        ("mirror t.csv c --limit x", "argument --limit: invalid integer value: 'x'", "framefetch mirror"),
        ("mirror t.csv c --limit -1", "argument --limit: expected 0 or more, got -1", "framefetch mirror"),
        ("mirror t.csv c --limit=-1", "argument --limit: expected 0 or more, got -1", "framefetch mirror"),
        ("mirror t.csv c --per-host 0", "argument --per-host: expected 1 or more, got 0", "framefetch mirror"),
        ("mirror t.csv c --stall-timeout x", "argument --stall-timeout: invalid float value", "framefetch mirror"),
        ("mirror t.csv c --limit", "argument --limit: expected one argument", "framefetch mirror"),
        ("mirror t.csv c --suffix -raw", "argument --suffix: expected one argument", "framefetch mirror"),
        ("mirror t.csv c --quiet=yes", "argument --quiet: ignored explicit argument 'yes'", "framefetch mirror"),
        ("mirror t.csv c --lim 3", "unrecognized arguments: --lim 3", "framefetch mirror"),
        ("mirror t.csv c --yes", "unrecognized arguments: --yes", "framefetch mirror"),
        ("mirror t.csv c d", "unrecognized arguments: d", "framefetch mirror"),
        ("--quiet mirror t.csv c", "unrecognized arguments: --quiet", "framefetch mirror"),
    ],
)
def test_what_means_nothing_is_told_in_one_line(
    words: str, said: str, whose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*words.split(" "))
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("framefetch: ")
    assert err.endswith(f"; see '{whose} --help'\n")
    assert said in err
    assert err.count("\n") == 1


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return a help text, on lines as long as they like to be."""
    with pytest.raises(SystemExit) as ended:
        parsed(*words)
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return " ".join(out.split())


def test_help_names_commands_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--help")
    assert text.startswith("usage: framefetch [-h] [--version] COMMAND ...")
    assert ABOUT in text
    for command in COMMANDS:
        summary = command.run.__doc__.strip().partition("\n")[0]
        assert f"{command.name} {summary}" in text


def test_the_version_is_told_and_is_not_that_of_a_release(capsys: pytest.CaptureFixture[str]) -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert told(capsys, "--version") == f"framefetch {declared}"
    assert parsed("mirror", "t.csv", "c", "--version", "v7").version == "v7"


@pytest.mark.parametrize("before", [(), ("t.csv",), ("t.csv", "c", "--limit", "3")], ids=len)
def test_help_of_a_command_shows_groups_and_defaults(
    before: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, "mirror", *before, "--help")
    assert text.startswith("usage: framefetch mirror TABLE CACHE_DIR [OPTION]... Hold the file of every row")
    headings = ["Where the files are:", "What is expected:", "Limits:", "Output:"]
    assert sorted(headings, key=text.index) == headings
    assert "--limit N Only the first N of them. --url-column" in text, "none is no default"
    assert "--suffix SUFFIX Appended to names without an extension. [default: .nwb]" in text
    assert "--per-host N Most requests at once to one host; how many pay is found out. [default: 256]" in text
    assert text.index("--bandwidth") > text.index("Limits:")
    assert "--quiet No progress and no summary. --json" in text, "a flag has neither value nor default"
    assert text.count("[default: wkf, url, file_url, download_url]") == 1


def test_help_of_a_command_shows_what_must_be_said_and_what_may(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "prune", "-h").startswith("usage: framefetch prune CACHE_DIR --keep TABLE [OPTION]...")
    assert told(capsys, "demo", "-h").startswith("usage: framefetch demo [FOLDER] [OPTION]...")
    assert "FOLDER Where to work. [default: framefetch-demo]" in told(capsys, "demo", "--help")


def test_a_percent_sign_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Percents:
        share: Annotated[str, Argument("At most 100% of (all).")]
        date: Annotated[str, Option("A date such as %(prog)s or %d.", "TEXT")] = "%Y"

    def spend(arguments: Percents) -> int:
        """Spend a share."""
        return 0

    with pytest.raises(SystemExit) as ended:
        parse("About.", [Command("spend", Percents, spend)], ["spend", "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "SHARE At most 100% of (all)." in text
    assert "--date TEXT A date such as %(prog)s or %d. [default: %Y]" in text


def test_no_words_at_all_are_answered_by_help_on_the_other_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: framefetch")
    assert "mirror" in err
