"""What a request tells a host is hidden in what the host says, in whatever form it says it."""

import json
from base64 import b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.sources.environment import basic
from framefetch.sources.secrets import forget, hidden, told

CANARY = "c4n4ry-k/y"

#: How a server may quote what it was told, and how a message shows it then.
FORMS = {
    "as it is": lambda text: text,
    "percent-encoded": lambda text: quote(text, safe=""),
    "but for slashes": quote,
    "percent-encoded in lower case": lambda text: quote(text, safe="").lower(),
    "as a form": quote_plus,
    "percent-encoded twice": lambda text: quote(quote(text, safe=""), safe=""),
    "JSON": lambda text: json.dumps({"said": text}),
    "JSON, with slashes escaped": lambda text: json.dumps(text).replace("/", "\\/"),
    "bytes": lambda text: repr(text.encode()),
    "bytes, percent-encoded": lambda text: repr(quote(text).encode()),
    "read as Latin-1": lambda text: text.encode().decode("latin-1"),
    "its repr": repr,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [CANARY, "c4n4ry é+ü", "c4n4ry\"'x", "c4n4ry č", "100%c4n4ry=="])
def test_a_secret_is_hidden_in_every_form(form: str, secret: str) -> None:
    said = FORMS[form](secret)
    assert hidden(f"no key <{said}>, nor [{said}]", [secret]).count("***") == 2
    assert "4n4ry" not in hidden(f"no key <{said}>, nor [{said}]", [secret])


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=4, max_size=20),
    st.sampled_from(sorted(set(FORMS) - {"percent-encoded in lower case"})),
)
def test_no_secret_survives(secret: str, form: str) -> None:
    shown = hidden(f"<{FORMS[form](secret)}>", [secret])
    assert shown in ("<***>", '<"***">', '<{"said": "***"}>', "<'***'>", "<b'***'>", '<b"***">')


@pytest.mark.parametrize("end", ["", "'", '"', "…"])
def test_a_secret_that_a_quotation_cuts_is_hidden(end: str) -> None:
    assert hidden(f"b'key c4n4ry{end}", [CANARY]) == f"b'key ***{end}"
    assert hidden(f"b'key c4n4ry{end} or c4n4rx", [CANARY]) == f"b'key {'***' + end if end else 'c4n4ry'} or c4n4rx"


def test_what_is_no_secret_stays() -> None:
    assert hidden("no c4n4, c4n4ry-key or c4n4ry-k", [CANARY]) == "no c4n4, c4n4ry-key or ***"
    assert hidden("two c4n4ry-k/yc4n4ry-k/y", [CANARY]) == "two ******"
    assert hidden("the longer abcdef first", ["abcd", "abcdef"]) == "the longer *** first"


def test_what_is_secret_of_a_request() -> None:
    url = f"https://user:p%40ss@host/a?id=7777&token={quote(CANARY)}&X-Amz-Date=2024&X-Amz-Signature=abcd&sig=abc#frag"
    fields = [
        ("X-Api-Key", " 12345 "),
        ("X-No", "123"),
        ("User-Agent", "Mozilla/5.0"),
        ("Host", "host.example"),
        ("Referer", "https://host/"),
        ("Origin", "https://host"),
        ("Cookie", "a=1; session=s3ss10n; id=abcde="),
        ("authorization", "ApiKey k3yk3y"),
        ("Proxy-Authorization", basic("mario", "it's:me")),
        ("Authorization", "Basic !!!!"),
    ]
    assert told(url, fields) == {
        *("user", "p@ss", CANARY, "abcd", "12345", "a=1; session=s3ss10n; id=abcde=", "s3ss10n", "abcde="),
        *("ApiKey k3yk3y", "k3yk3y", "mario", "it's:me", basic("mario", "it's:me"), "Basic !!!!", "!!!!"),
        b64encode(b"mario:it's:me").decode(),
    }


@pytest.mark.parametrize(
    ("query", "secrets"),
    [
        ("a=1;token=abcd;id=7", {"abcd"}),
        ("a=1;token=abcd;efgh;id=7&b=2", {"abcd;efgh"}),
        ("token=abcd;id=7&b=2", {"abcd;id=7", "abcd"}),
        ("md5=abcd&expires=9999", {"abcd"}),
        ("md5=abcd", set()),
        ("%74oken=ab%2Bcd", {"ab+cd"}),
    ],
)
def test_what_is_secret_of_a_query(query: str, secrets: set[str]) -> None:
    assert told(f"https://host/a?{query}", ()) == secrets


def test_an_error_forgets_with_all_it_came_from() -> None:
    error = ValueError(f"no {CANARY}", 7)
    error.__cause__ = OSError(f"nor {quote(CANARY)}")
    error.__context__ = KeyError(CANARY)
    error.__context__.__context__ = error
    forget(error, [CANARY])
    assert error.args == ("no ***", 7)
    assert error.__cause__.args == ("nor ***",)
    assert error.__context__.args == ("***",)
