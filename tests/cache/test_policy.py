"""Which bases may go: tables of facts and verdicts."""

from dataclasses import replace

import pytest

from imgbackend.cache.policy import CachedBase, OtherHost, Policy, judge, span
from imgbackend.cache.watermarks import decide, for_need, missing_room, place
from imgbackend.types import Capacity, Gi

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
    assert missing_room(verdicts, place(policy, free=2 * Gi)) == (Gi, 7 * Gi)
    assert missing_room(verdicts, place(Policy(), free=0)) == (0, 0)


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


@pytest.mark.parametrize(
    ("policy", "free", "wanted"),
    [
        (Policy(max_size=5 * Gi, high=100, low=50), 0, ""),
        (Policy(max_size=4 * Gi, high=90, low=50), 0, "bc"),  # 4 of 4: down to 2
        (Policy(max_size=4 * Gi, high=100, low=50), 0, ""),
        (Policy(max_size=3 * Gi, high=100, low=100), 0, "b"),
        (Policy(max_size=3 * Gi, high=100, low=0), 0, "bcad"),
        (Policy(min_free=0, high=90, low=80), 2 * Gi, ""),  # 18 of 20 are used: that is 90 %
        (Policy(min_free=0, high=90, low=80), 2 * Gi - 1, "bca"),
        (Policy(min_free=0, high=90, low=90), 2 * Gi - 1, "b"),
        (Policy(min_free=10 * Gi, high=90, low=80), 12 * Gi, ""),  # 8 of the 10 that may be used
        (Policy(min_free=10 * Gi, high=90, low=80), Gi * 11 - 1, "bc"),
        (Policy(max_size=3 * Gi, min_free=0, high=100, low=50), 20 * Gi, "bca"),
    ],
)
def test_room_is_made_from_the_high_watermark_down_to_the_low_one(policy: Policy, free: int, wanted: str) -> None:
    verdicts = decide(letters(3 * HOUR, 6 * HOUR, 5 * HOUR, 2 * HOUR), policy, NOW, free=free, total=20 * Gi)
    assert {each.base.name[0] for each in verdicts if each.goes} == set(wanted)
    assert {each.cause for each in verdicts if each.goes} <= {"room"}


@pytest.mark.parametrize(
    ("need", "wanted"), [(0, ""), (1, "d"), (Gi, "d"), (Gi + 1, "dc"), (3 * Gi, "dcb"), (4 * Gi, "")]
)
def test_a_fetch_that_lacks_room_takes_the_least_recently_used_or_nothing(need: int, wanted: str) -> None:
    bases = [*letters(600, 2 * HOUR, 5 * HOUR, 25 * HOUR), base(9 * DAY, store="rbd")]
    verdicts = [judge(each, POLICY, NOW) for each in bases]
    assert "".join(each.base.name[0] for each in for_need(verdicts, need)) == wanted


def test_what_is_gone_from_its_source_goes_first_and_earlier_if_it_may() -> None:
    bases = [base(5 * HOUR, "a" * 40), base(2 * HOUR, "b" * 40, upstream="gone")]
    assert gone(bases, Policy()) == ""
    assert gone(bases, Policy(max_size=Gi)) == "b"
    early = judge(bases[1], Policy(gone_age=HOUR), NOW)
    assert (early.goes, early.cause) == (True, "gone")
    assert "gone from the source" in early.reason
    assert not judge(bases[0], Policy(gone_age=HOUR), NOW).goes
    assert not judge(replace(bases[1], upstream="there"), Policy(gone_age=HOUR), NOW).goes
    assert not judge(replace(bases[1], last_used=NOW - 600), Policy(gone_age=0), NOW).goes  # leased
    assert judge(replace(bases[1], last_used=NOW - 25 * HOUR), Policy(gone_age=0), NOW).cause == "unused"
    assert gone(bases, Policy(gone_age=2 * DAY)) == ""


@pytest.mark.parametrize(
    ("last_pass", "goes"),
    [(10 * HOUR, True), (24 * HOUR, True), (24 * HOUR + 1, False), (25 * HOUR, False), (30 * HOUR, False), (-60, True)],
)
def test_a_lease_has_to_have_ended_before_the_last_pass_of_every_other_host(last_pass: float, goes: bool) -> None:
    verdict = judge(base(25 * HOUR), POLICY, NOW, OtherHost(name="b", last_pass=NOW - last_pass))
    assert verdict.goes is goes
    assert goes or "the host b" in verdict.reason
    assert not verdict.spare or goes


@pytest.mark.parametrize(
    ("policy", "room", "wanted"),
    [
        (Policy(), Capacity(total=20 * Gi, free=0), ""),
        (Policy(store_max_size={"lvm": 3 * Gi}), None, ""),
        (Policy(store_max_size={"lvm": 2 * Gi}), None, "b"),
        (Policy(store_max_size={"lvm": 0}), None, "bca"),
        (Policy(store_max_size={"rbd": 0}), None, ""),
        (Policy(max_size=0, min_free=20 * Gi), Capacity(total=20 * Gi, free=0), ""),
        (Policy(store_min_free={"lvm": 2 * Gi}), Capacity(total=20 * Gi, free=2 * Gi), ""),
        (Policy(store_min_free={"lvm": 2 * Gi}), Capacity(total=20 * Gi, free=Gi), "b"),
        (Policy(store_min_free={"lvm": 2 * Gi}), None, ""),
        (Policy(store_max_size={"lvm": 3 * Gi}, high=90, low=40), None, "bc"),
    ],
)
def test_store_has_limits_of_its_own(policy: Policy, room: Capacity | None, wanted: str) -> None:
    bases = [*letters(2 * HOUR, 5 * HOUR, 3 * HOUR, store="lvm"), *letters(600, store="lvm", children=1)]
    verdicts = decide(bases[:3], policy, NOW, stores={} if room is None else {"lvm": room})
    assert {each.base.name[0] for each in verdicts if each.goes} == set(wanted)
    held = decide(bases[3:], policy, NOW, stores={} if room is None else {"lvm": room})
    assert [each.goes for each in held] == [False], "one on which a disk hangs"
