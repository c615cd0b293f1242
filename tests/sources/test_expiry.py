"""Has a link expired? Text in, answer out."""

from datetime import UTC, datetime

import pytest

from framefetch.sources.expiry import expiry_of, tells_expiry

NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Date=20260101T110000Z&X-Amz-Expires=3600&X-Amz-Signature=ab",
        "x-amz-expires=3600&id=7&x-amz-date=20260101T110000Z",
        "X-Goog-Date=20260101T110000Z&X-Goog-Expires=3600",
        f"AWSAccessKeyId=a&Signature=b%2Fc&Expires={int(NOON.timestamp())}",
        "sv=2020&se=2026-01-01T12%3A00%3A00Z&sig=a",
        "se=2026-01-01T13:00:00%2B01:00&sig=a",
        "se=2026-01-01T12:00:00&sig=a",
    ],
)
def test_a_link_that_says_until_when(query: str) -> None:
    assert expiry_of(f"https://store/f.nwb?{query}") == NOON


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?id=7",
        "?Expires=soon",
        "?Expires=" + "9" * 40,
        "?X-Amz-Date=today&X-Amz-Expires=60",
        "?X-Amz-Date=20260101T110000Z",
        "?X-Amz-Date=20260101T110000Z&X-Amz-Expires=" + "9" * 20,
        "?se=1",
        "#Expires=1",
    ],
)
def test_a_link_that_does_not_say(query: str) -> None:
    assert expiry_of("https://store/f.nwb" + query) is None


@pytest.mark.parametrize(
    ("body", "expired"),
    [
        (b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>", True),
        (b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>", True),
        (b"<Error>\n <Code> RequestExpired </Code></Error>", True),
        (b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>", False),
        (b"<Error><Code>NoSuchKey</Code><Message>expired.nwb</Message></Error>", False),
        (b"<html><title>Your subscription has expired</title></html>", False),
        (b"", False),
    ],
)
def test_what_an_object_store_says(body: bytes, expired: bool) -> None:
    assert tells_expiry(body) is expired
