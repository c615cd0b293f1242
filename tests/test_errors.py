"""Errors travel: between processes, and as copies."""

import copy
import inspect
import pickle

import pytest

from framefetch import errors
from framefetch.errors import BytesLost, FetchFailed, FramefetchError, Stalled, StatusError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FramefetchError)]


def _made(kind: type[FramefetchError]) -> FramefetchError:
    if kind is StatusError:
        return StatusError("words", status=429, retry_after=7.5, expired=True)
    if kind is BytesLost:
        return BytesLost("words", paths=["v0/a", "v0/b"])
    if kind is Stalled:
        return Stalled("words", early=True, unheard=True)
    if kind is FetchFailed:
        return FetchFailed("words", frame={"row": 7})
    return kind("words")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("how", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_is_the_same_behind_a_pickle_or_a_copy(kind, how) -> None:
    error = _made(kind)
    error.kept, error.result = 7, {"until": "then"}
    again = how(error)
    assert type(again) is kind
    assert str(again) == str(error) == "words"
    assert vars(again) == vars(error)
    assert again.retryable is error.retryable


def test_there_are_all_classes() -> None:
    assert len(CLASSES) > 30
