"""Failures that waiters share: which, with whom, and for how long."""

import json
import time
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.state.shared_failure import SECONDS, SharedFailure
from imgbackend.types import Gi

NAME = "a" * 40


@pytest.fixture
def shared(tmp_path: Path) -> SharedFailure:
    return SharedFailure(tmp_path, NAME)


def failed(shared: SharedFailure, failure: BaseException) -> None:
    with pytest.raises(type(failure)), shared.told():
        raise failure


@pytest.mark.parametrize("kind", [errors.SourceUnavailable, errors.TemplateUnsafe, errors.TemplateCorrupt])
def test_who_waited_gets_the_failure_of_the_fetch(
    shared: SharedFailure, tmp_path: Path, kind: type[errors.Error]
) -> None:
    asked = time.time()
    failed(shared, kind("it broke"))
    with pytest.raises(kind, match="it broke"):
        SharedFailure(tmp_path, NAME).raise_recent(asked, None)


def test_who_asks_after_the_failure_tries_again(shared: SharedFailure) -> None:
    failed(shared, errors.SourceUnavailable("it broke"))
    shared.raise_recent(time.time(), None)


@pytest.mark.parametrize(
    "failure",
    [
        errors.SourceDenied("no"),
        errors.ImageNotFound("no"),
        errors.StorageFull("/", 1, 0),
        KeyboardInterrupt(),
        OSError(),
    ],
)
def test_what_is_the_callers_own_is_not_shared(shared: SharedFailure, failure: BaseException) -> None:
    asked = time.time()
    failed(shared, failure)
    shared.raise_recent(asked, None)


def test_of_a_too_large_image_each_waiter_compares_the_size(shared: SharedFailure) -> None:
    asked = time.time()
    failed(shared, errors.TemplateTooLarge(8 * Gi, Gi))
    with pytest.raises(errors.TemplateTooLarge) as caught:
        shared.raise_recent(asked, 4 * Gi)
    assert (caught.value.needed, caught.value.allowed) == (8 * Gi, 4 * Gi)
    shared.raise_recent(asked, 8 * Gi)
    shared.raise_recent(asked, None)


def test_an_image_larger_than_any_may_be_is_too_large_for_all_who_wait(shared: SharedFailure) -> None:
    asked = time.time()
    failed(shared, errors.TemplateTooLarge(8 * Gi, Gi, limit="max_image_virtual_size"))
    with pytest.raises(errors.TemplateTooLarge, match="max_image_virtual_size"):
        shared.raise_recent(asked, None)


def test_a_failure_is_forgotten_after_its_time(shared: SharedFailure, tmp_path: Path) -> None:
    asked = time.time() - 2 * SECONDS - 1
    failed(shared, errors.SourceUnavailable("it broke"))
    [path] = tmp_path.iterdir()
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "time": told["time"] - 2 * SECONDS}))
    shared.raise_recent(asked, None)
    assert list(tmp_path.iterdir()) == []


def test_success_forgets_a_failure(shared: SharedFailure, tmp_path: Path) -> None:
    failed(shared, errors.SourceUnavailable("it broke"))
    with shared.told():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"time": "x"}'])
def test_a_broken_note_is_no_failure(shared: SharedFailure, tmp_path: Path, content: str) -> None:
    (tmp_path / f"{NAME}.failed").write_text(content)
    shared.raise_recent(0, None)
