"""What is asked for to go on with a part: nothing that the part, the table or the server's own words rule out."""

import pytest

from framefetch.engine.resume import resumption
from framefetch.models import Digest, Entity
from framefetch.sources.base import Ask
from tests.store.builders import request

URL = "http://host/1.nwb"
TAGGED = Entity(URL, etag='"one"', total=100)


def test_a_part_is_gone_on_with_where_its_bytes_end() -> None:
    assert resumption(TAGGED, 40, URL, request()) == Ask(40, entity=TAGGED, has_digest=False)


@pytest.mark.parametrize(
    ("entity", "length", "stated"),
    [
        (None, 40, {}),
        (TAGGED, 0, {}),
        (TAGGED, 60, {"size": 59}),  # longer than the table says that the file is
        (TAGGED, 101, {}),  # longer than the server has said
        (Entity(URL, total=100), 40, {}),  # nothing would prove that the rest belongs to it
    ],
)
def test_a_part_that_cannot_be_right_is_begun_anew(entity, length, stated) -> None:
    assert resumption(entity, length, URL, request(**stated)) is None


def test_what_one_mirror_has_said_means_nothing_to_another() -> None:
    assert resumption(TAGGED, 40, "http://mirror/1.nwb", request()) is None
    stated = request(digests=(Digest("md5", "0" * 32),))
    asked = resumption(TAGGED, 40, "http://mirror/1.nwb", stated)
    assert asked == Ask(40, entity=Entity("http://mirror/1.nwb", total=100), has_digest=True)
