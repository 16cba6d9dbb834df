"""What all sources share: writing, hashing, resuming, retrying, limits."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgbackend.errors import ConfigError, SourceDenied, SourceUnavailable, TemplateCorrupt, TemplateTooLarge
from imgbackend.sources.retry import Interrupted, Retry
from imgbackend.sources.sparse_file import BLOCK, SparseFile
from imgbackend.sources.stream import Body, StreamOrder, TransferLimits, fetch
from imgbackend.types import Ki, Mi, Ti, ignore
from labs.told import CancelledError, Told

_RETRY = Retry(times=2, delay=0.01)
_DATA = os.urandom(3 * Mi + 12345)


class _Server:
    """Answers with ``data``; of each answer in turn ``cuts`` says after how many bytes it breaks off."""

    def __init__(self, data: bytes, *cuts: int, ranges: bool = True, piece: int = 100_000) -> None:
        self.data, self.cuts, self.ranges, self.piece = data, list(cuts), ranges, piece
        self.asked: list[int] = []
        self.closed = 0
        self.start = 0

    def __call__(self, offset: int) -> Body:
        self.asked.append(offset)
        self.start = offset if self.ranges else 0
        return self

    def chunks(self) -> Iterator[bytes]:
        rest = self.data[self.start :]
        end = self.cuts.pop(0) if self.cuts else len(rest)
        for at in range(0, min(end, len(rest)), self.piece):
            yield rest[at : min(at + self.piece, end)]
        if end < len(rest):
            raise Interrupted("the wire was cut")

    def close(self) -> None:
        self.closed += 1


def _wanted(data: bytes = _DATA, *, resumable: bool = True, size: int | None = None, largest: int = Ti) -> StreamOrder:
    return StreamOrder(
        name="it",
        size=len(data) if size is None else size,
        digests=(("sha512", hashlib.sha512(data).hexdigest()),),
        format="raw",
        wrapper=None,
        limits=TransferLimits(largest=largest, ratio=1000),
        resumable=resumable,
    )


def test_bytes_arrive_with_their_digest_and_a_private_mode(target: Path) -> None:
    server = _Server(_DATA)
    delivered = fetch(target, server, _wanted(), _RETRY, ignore)
    assert target.read_bytes() == _DATA
    assert delivered.size == len(_DATA)
    assert delivered.digests == (("sha512", hashlib.sha512(_DATA).hexdigest()),)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert server.closed == 1


@pytest.mark.parametrize("piece", [1000, 64 * Ki, 100_000, Mi], ids=str)
def test_aligned_zeroes_become_holes_whatever_the_pieces(target: Path, piece: int) -> None:
    data = bytearray(8 * Mi + 777)
    data[Mi : Mi + BLOCK] = os.urandom(BLOCK)
    data[5 * Mi + 3] = 1
    fetch(target, _Server(bytes(data), piece=piece), _wanted(bytes(data)), _RETRY, ignore)
    assert target.read_bytes() == data
    assert target.stat().st_size == len(data)
    assert target.stat().st_blocks * 512 <= 4 * BLOCK


def test_zeroes_only_are_one_hole_of_the_right_length(target: Path) -> None:
    fetch(target, _Server(bytes(2 * Mi + 1)), _wanted(bytes(2 * Mi + 1)), _RETRY, ignore)
    assert target.stat().st_size == 2 * Mi + 1
    assert target.stat().st_blocks == 0


def test_broken_fetch_goes_on_where_it_broke(target: Path) -> None:
    server = _Server(_DATA, 1_000_000, 500_001)
    fetch(target, server, _wanted(), _RETRY, ignore)
    assert server.asked == [0, 1_000_000, 1_500_001]
    assert server.closed == 3
    assert target.read_bytes() == _DATA


def test_without_ranges_or_digest_it_starts_again(target: Path) -> None:
    server = _Server(_DATA, 1_000_000)
    fetch(target, server, _wanted(resumable=False), _RETRY, ignore)
    assert server.asked == [0, 0]
    assert target.read_bytes() == _DATA


def test_source_that_ignores_the_offset_is_taken_from_its_beginning(target: Path) -> None:
    server = _Server(_DATA, 1_000_000, ranges=False)
    fetch(target, server, _wanted(), _RETRY, ignore)
    assert server.asked == [0, 1_000_000]
    assert target.read_bytes() == _DATA


def test_restart_unlinks_and_never_truncates(target: Path) -> None:
    """Somebody's old descriptor keeps the old file: an orphan that still writes cannot spoil the new one."""
    target.write_bytes(b"old bytes of a fetch that cannot be resumed")
    with target.open("rb") as old:
        fetch(target, _Server(_DATA), _wanted(resumable=False), _RETRY, ignore)
        assert old.read().startswith(b"old bytes")
    assert target.read_bytes() == _DATA


def test_failed_fetch_leaves_exactly_the_bytes_that_came(target: Path) -> None:
    data = bytes(Mi) + os.urandom(100) + bytes(2 * Mi)
    with pytest.raises(SourceUnavailable, match=r"wire was cut \(3 tries\)"):
        fetch(target, _Server(data, 2 * Mi, 1000, 1), _wanted(data), _RETRY, ignore)
    assert target.stat().st_size == 2 * Mi + 1001
    assert target.read_bytes() == data[: 2 * Mi + 1001]


def test_next_call_resumes_and_its_digest_covers_all_bytes(target: Path) -> None:
    target.write_bytes(_DATA[:1_234_567])
    server, told = _Server(_DATA), Told()
    delivered = fetch(target, server, _wanted(), _RETRY, told)
    assert server.asked == [1_234_567]
    assert delivered.digests[0][1] == hashlib.sha512(_DATA).hexdigest()
    assert target.read_bytes() == _DATA
    assert told.of("digest")


def test_whole_leftover_is_checked_without_asking(target: Path) -> None:
    target.write_bytes(_DATA)
    server = _Server(_DATA)
    fetch(target, server, _wanted(), _RETRY, ignore)
    assert server.asked == []


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * len(_DATA), b"x" * (len(_DATA) + 1)], ids=["part", "all", "more"])
def test_foreign_leftover_is_fetched_anew_once(target: Path, left: bytes) -> None:
    target.write_bytes(left)
    server = _Server(_DATA)
    fetch(target, server, _wanted(), _RETRY, ignore)
    assert server.asked[-1] == 0
    assert target.read_bytes() == _DATA


def test_corrupt_source_is_fetched_anew_only_once_after_a_resume(target: Path) -> None:
    server = _Server(os.urandom(len(_DATA)), 1000)
    with pytest.raises(TemplateCorrupt, match="sha512"):
        fetch(target, server, _wanted(), _RETRY, ignore)
    assert server.asked == [0, 1000, 0]


def test_corrupt_bytes_are_told_by_the_algorithm_and_not_fetched_again(target: Path) -> None:
    server = _Server(os.urandom(len(_DATA)))
    with pytest.raises(TemplateCorrupt, match=r"its sha512 is .* promised"):
        fetch(target, server, _wanted(), _RETRY, ignore)
    assert server.asked == [0]


def test_body_that_ends_early_is_interrupted_not_short(target: Path) -> None:
    with pytest.raises(SourceUnavailable, match="broke off after 1000 of"):
        fetch(target, _Server(_DATA[:1000]), _wanted(), Retry(times=0, delay=0), ignore)


def test_body_that_is_too_long_is_corrupt(target: Path) -> None:
    with pytest.raises(TemplateCorrupt, match="more than the 1000 bytes"):
        fetch(target, _Server(_DATA), _wanted(size=1000), _RETRY, ignore)


def test_empty_image_is_refused_and_makes_no_file(target: Path) -> None:
    with pytest.raises(TemplateCorrupt, match="empty"):
        fetch(target, _Server(b""), _wanted(b""), _RETRY, ignore)
    assert not target.exists()


def test_too_large_is_refused_before_a_byte_is_asked_for(target: Path) -> None:
    server = _Server(_DATA)
    with pytest.raises(TemplateTooLarge) as caught:
        fetch(target, server, _wanted(largest=Mi), _RETRY, ignore)
    assert (caught.value.needed, caught.value.allowed) == (len(_DATA), Mi)
    assert server.asked == []


def test_too_large_is_refused_while_it_streams_where_no_size_was_told(target: Path) -> None:
    wanted = StreamOrder(
        name="it",
        size=None,
        digests=(),
        format="raw",
        wrapper=None,
        limits=TransferLimits(largest=Mi, ratio=1),
        resumable=False,
    )
    with pytest.raises(TemplateTooLarge):
        fetch(target, _Server(_DATA), wanted, _RETRY, ignore)
    assert target.stat().st_size <= Mi


def test_container_may_be_a_little_larger_than_its_disk() -> None:
    limits = TransferLimits(largest=64 * Mi, ratio=1)
    assert limits.of("raw") == 64 * Mi
    assert limits.of("qcow2") > limits.of("raw")


def test_unknown_digest_is_for_the_operator(target: Path) -> None:
    wanted = StreamOrder(
        name="it",
        size=1,
        digests=(("whirl9", "00"),),
        format=None,
        wrapper=None,
        limits=TransferLimits(largest=Mi, ratio=1),
        resumable=False,
    )
    with pytest.raises(ConfigError, match="whirl9"):
        fetch(target, _Server(b"x"), wanted, _RETRY, ignore)


@pytest.mark.parametrize("error", [SourceUnavailable("theirs"), OSError("theirs"), KeyboardInterrupt()], ids=repr)
def test_what_progress_raises_passes_unchanged_and_is_not_retried(target: Path, error: BaseException) -> None:
    def cancel(phase: str, done: int) -> None:
        raise error

    server = _Server(_DATA)
    with pytest.raises(type(error)) as caught:
        fetch(target, server, _wanted(), Retry(times=9, delay=3600), Told(cancel))
    assert caught.value is error
    assert len(server.asked) <= 1


def test_cancel_keeps_what_came_and_closes_the_source(target: Path) -> None:
    def cancel(phase: str, done: int) -> None:
        if done:
            raise CancelledError

    server = _Server(_DATA, piece=Mi)
    with pytest.raises(CancelledError):
        fetch(target, server, _wanted(), _RETRY, Told(cancel))
    assert server.closed == 1
    assert target.read_bytes() == _DATA[: target.stat().st_size]


def test_waiting_for_a_retry_can_be_cancelled(target: Path) -> None:
    def cancel(phase: str, done: int) -> None:
        if phase == "wait":
            raise CancelledError

    server = _Server(_DATA, 1000)
    with pytest.raises(CancelledError):
        fetch(target, server, _wanted(), Retry(times=9, delay=3600), Told(cancel))
    assert server.asked == [0]


def test_progress_ends_at_the_total_and_is_not_told_for_each_piece(target: Path) -> None:
    told = Told()
    fetch(target, _Server(_DATA, piece=1000), _wanted(), _RETRY, told)
    assert told.calls[-1] == ("fetch", len(_DATA), len(_DATA))
    assert len(told.calls) < len(_DATA) // 1000
    done = [at for at, _ in told.of("fetch")]
    assert done == sorted(done)


def test_denial_is_not_tried_again(target: Path) -> None:
    asked = []

    def denied(offset: int) -> Body:
        asked.append(offset)
        raise SourceDenied("no")

    with pytest.raises(SourceDenied):
        fetch(target, denied, _wanted(), _RETRY, ignore)
    assert asked == [0]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/etc/passwd", path)], ids=["fifo", "symlink"])
def test_target_that_is_no_file_is_not_written_to(target: Path, make: Callable[[Path], None]) -> None:
    make(target)
    with pytest.raises(OSError, match=r"regular|symbolic"):
        SparseFile(target, resume=True)


def test_last_interruption_becomes_a_plain_error_with_its_cause() -> None:
    def fail() -> None:
        raise Interrupted("down")

    told = Told()
    with pytest.raises(SourceUnavailable) as caught:
        Retry(times=1, delay=0.01).run(fail, told)
    assert type(caught.value) is SourceUnavailable
    assert isinstance(caught.value.__cause__, Interrupted)
    assert told.of("wait")
