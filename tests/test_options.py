"""What options refuse, and in which words: before anything is sent, and without showing a secret."""

from typing import Any

import pytest

from framefetch import Options, PlanError

CANARY = "c4n4ry5ecret"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("X-Api-Key", None, "header 'X-Api-Key': expected a name and a value as text, got str and NoneType"),
        ("X-Api-Key", 7, "got str and int"),
        ("X-Api-Key", CANARY.encode(), "got str and bytes"),
        (7, CANARY, "header 7: expected a name and a value as text, got int and str"),
        ("", CANARY, "header '' has characters that a header cannot hold in its name"),
        *((name, CANARY, "in its name") for name in ("X(", "X\t", "X:", "X Y", "X\x7f", "Schlüssel", "X\n")),
        *(("X", CANARY + end, "in its value") for end in ("č", "\v", "\x7f", "\0", "\r", "\n", "\x1f", "\ud800")),
        *(
            (name, CANARY, f"header '{name}': expected one that says nothing of what is sent")
            for name in ("Content-Length", "transfer-encoding", "RANGE", "If-Range")
        ),
    ],
)
def test_a_header_that_cannot_be_sent_as_meant_is_refused_without_its_value(name: Any, value: Any, words: str) -> None:
    with pytest.raises(PlanError) as refused:
        Options(headers={"Accept": "*/*", name: value})
    assert words in str(refused.value)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["Host", "User-Agent", "Accept", "Authorization", "Cookie", "x_lab.1~", "Accept-Encoding"]
)
@pytest.mark.parametrize("value", ["", "a b\tc", "Müller; é", "%7B'\"|}"])
def test_other_headers_are_taken(name: str, value: str) -> None:
    assert Options(headers={name: value}).headers == {name: value}
