"""Which bases may go: tables of facts and verdicts."""

from dataclasses import replace

import pytest

from imgbackend.cache.policy import CachedBase, Policy, decide, judge, missing_room, span
from imgbackend.types import Gi

NOW = 1_800_000_000.0
HOUR, DAY = 3600.0, 86400.0
SHA = "a" * 40
POLICY = Policy()


def base(ago: float, name: str = SHA, **fields: object) -> CachedBase:
    made = CachedBase(store=None, name=name, allocated=Gi, last_used=NOW - ago)
    return replace(made, **fields)  # type: ignore[arg-type]  # a test names fields that there are


@pytest.mark.parametrize(
    ("found", "policy", "goes", "words"),
    [
        (base(25 * HOUR), POLICY, True, "unused for 25 h"),
        (base(23 * HOUR), POLICY, False, "kept for 24 h"),
        (base(DAY), POLICY, True, "unused for 24 h"),
        (base(DAY - 1), POLICY, False, "kept"),
        (base(9 * DAY, disks=("web1/disk.rescue",)), POLICY, False, "1 disk hangs on it"),
        (base(9 * DAY, disks=("web1/disk", "web2/disk")), POLICY, False, "2 disks hang on it"),
        (base(9 * DAY, store="rbd", children=3), POLICY, False, "3 disks hang on it"),
        (base(9 * DAY, store="rbd", children=0, disks=("web1/disk",)), POLICY, True, "unused"),
        (base(9 * DAY, store="rbd", children=None, disks=("web1/disk",)), POLICY, False, "1 disk hangs"),
        (base(9 * DAY, store="rbd"), POLICY, True, "unused for 9 days"),
        (base(9 * DAY, pinned=True), POLICY, False, "pinned"),
        (base(30 * 60), Policy(original_age=0), False, "leased for 60 min"),
        (base(61 * 60), Policy(original_age=0), True, "unused for 61 min"),
        (base(0), Policy(original_age=0, lease=0), True, "unused for 0 s"),
        (base(9 * DAY), Policy(remove=False), False, "remove_unused_base_images"),
        (base(2 * HOUR, f"{SHA}_20"), POLICY, True, "unused for 2 h"),
        (base(2 * HOUR, f"{SHA}_sm"), POLICY, True, "unused for 2 h"),
        (base(2 * HOUR, f"{SHA}_20"), Policy(lease=3 * HOUR), False, "leased for 3 h"),
        (base(2 * HOUR, f"gen-{SHA}"), POLICY, False, "kept for 24 h"),
        (base(2 * HOUR, "swap_4"), POLICY, False, "kept for 24 h"),
        (base(2 * HOUR, "ephemeral_20_40d1d2c"), POLICY, False, "kept for 24 h"),
        (base(25 * HOUR, "ephemeral_20_40d1d2c"), POLICY, True, "unused for 25 h"),
        (base(-30), Policy(lease=0, original_age=0), True, "unused for 0 s"),
        (base(-30), Policy(original_age=0), False, "used 0 s ago"),
        (base(-DAY), Policy(lease=0, original_age=0), False, "24 h in the future"),
    ],
)
def test_verdict_and_its_reason(found: CachedBase, policy: Policy, goes: bool, words: str) -> None:
    verdict = judge(found, policy, NOW)
    assert verdict.goes is goes
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("found", "refresh"),
    [
        (base(DAY, disks=("web1/disk",)), True),
        (base(DAY, pinned=True), True),
        (base(-DAY), True),
        (base(9 * DAY), False),
        (base(60), False),
    ],
)
def test_use_is_noted_anew_of_what_is_used_or_pinned_or_has_a_wrong_time(found: CachedBase, refresh: bool) -> None:
    assert judge(found, POLICY, NOW).refresh is refresh


def letters(*spans: float, **fields: object) -> list[CachedBase]:
    return [base(ago, chr(ord("a") + number) * 40, **fields) for number, ago in enumerate(spans)]


def gone(bases: list[CachedBase], policy: Policy, free: int = 100 * Gi) -> str:
    """The letters of those that go."""
    return "".join(each.base.name[0] for each in decide(bases, policy, NOW, free=free) if each.goes)


@pytest.mark.parametrize(
    ("bases", "policy", "free", "wanted"),
    [
        (letters(2 * HOUR, 5 * HOUR, 3 * HOUR), Policy(max_size=3 * Gi), 0, ""),
        (letters(2 * HOUR, 5 * HOUR, 3 * HOUR), Policy(max_size=2 * Gi), 0, "b"),
        (letters(2 * HOUR, 5 * HOUR, 3 * HOUR), Policy(max_size=3 * Gi - 1), 0, "b"),
        (letters(2 * HOUR, 5 * HOUR, 3 * HOUR), Policy(max_size=0), 0, "abc"),
        (letters(25 * HOUR, 5 * HOUR, 3 * HOUR), Policy(max_size=2 * Gi), 0, "a"),
        (letters(2 * HOUR, 600, 3 * HOUR), Policy(max_size=0), 0, "ac"),
        (letters(2 * HOUR, 5 * HOUR), Policy(max_size=0, remove=False), 0, ""),
        (letters(2 * HOUR, 5 * HOUR, pinned=True), Policy(max_size=0), 0, ""),
        (letters(2 * HOUR, 5 * HOUR, disks=("web1/disk",)), Policy(max_size=0), 0, ""),
        (letters(2 * HOUR, 5 * HOUR, store="rbd"), Policy(max_size=0, min_free=Gi), 0, ""),
        (letters(2 * HOUR, 5 * HOUR, 3 * HOUR), Policy(min_free=2 * Gi), 2 * Gi, ""),
        (letters(2 * HOUR, 5 * HOUR, 3 * HOUR), Policy(min_free=2 * Gi), Gi, "b"),
        (letters(2 * HOUR, 5 * HOUR, 3 * HOUR), Policy(min_free=2 * Gi), 0, "bc"),
        (letters(25 * HOUR, 5 * HOUR, 3 * HOUR), Policy(min_free=2 * Gi), Gi, "a"),
    ],
)
def test_least_recently_used_go_until_there_is_room(
    bases: list[CachedBase], policy: Policy, free: int, wanted: str
) -> None:
    assert gone(bases, policy, free) == wanted


def test_room_that_cannot_be_made_is_told() -> None:
    policy = Policy(max_size=Gi, min_free=10 * Gi)
    verdicts = decide(letters(600, 600, 5 * HOUR), policy, NOW, free=2 * Gi)
    assert [each.goes for each in verdicts] == [False, False, True]
    assert missing_room(verdicts, policy, 2 * Gi) == (Gi, 7 * Gi)
    assert missing_room(verdicts, Policy(), 0) == (0, 0)


def test_no_base_goes_where_a_disk_could_not_be_looked_at() -> None:
    bases = [*letters(9 * DAY, 2 * HOUR), base(9 * DAY, store="rbd", children=0)]
    verdicts = decide(bases, Policy(max_size=0), NOW, free=0, unseen=True)
    assert [each.goes for each in verdicts] == [False] * 3
    assert {each.reason for each in verdicts} == {"a disk that may hang on it could not be looked at"}


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "0 s"), (0.9, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (DAY, "24 h"),
     (2 * DAY - 1, "47 h"), (2 * DAY, "2 days"), (400 * DAY, "400 days")],
)  # fmt: skip
def test_times_are_told_as_people_say_them(seconds: float, told: str) -> None:
    assert span(seconds) == told
