"""Sizes as people write and read them, and cells as each output format wants them."""

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbackend.cli.figures import Facts, Listed, Several, Size, Time, cell, human_size
from imgbackend.sizes import parse_size
from imgbackend.types import Gi, Ki, Mi, Ti


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512", 512),
        ("512B", 512),
        ("1k", Ki),
        ("1K", Ki),
        ("3KiB", 3 * Ki),
        ("7M", 7 * Mi),
        ("20G", 20 * Gi),
        ("20g", 20 * Gi),
        ("20GiB", 20 * Gi),
        ("20 GiB", 20 * Gi),
        ("20GB", 20 * Gi),
        (" 20G ", 20 * Gi),
        ("1.5G", 3 * Gi // 2),
        ("0.5K", 512),
        ("2T", 2 * Ti),
        ("1P", 1024 * Ti),
        ("0.3K", 308),
        ("8191P", 8191 << 50),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "0G", "0.0G", "-1", "-20G", "+1", "G", "20X", "20GG", "1.5", "1.5B", ".5G", "1.G", "1,5G", "1e9",
     "0x10", "20G 5M", "nan", "inf", "8192P", "9" * 30, "9" * 5000 + "G", "٢G", "1_000", "20G\n20G", "1/2G", "--size"],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@given(st.integers(1, (1 << 63) - 1))
def test_bytes_are_taken_as_they_are(size: int) -> None:
    assert parse_size(str(size)) == size


@given(st.decimals(Decimal("0.001"), Decimal(4000), places=3), st.sampled_from("KMGT"))
def test_a_fraction_is_never_rounded_down(number: Decimal, unit: str) -> None:
    exact = number * (1 << 10 * ("KMGT".index(unit) + 1))
    assert exact <= parse_size(f"{number:f}{unit}") < exact + 1


@given(st.text(max_size=20))
def test_any_text_is_a_size_above_zero_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_size(text) > 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1, "1 B"), (1023, "1023 B"), (Ki, "1 KiB"), (1536, "1.5 KiB"), (Mi - 1, "1 MiB"), (20 * Gi, "20 GiB"),
     (Gi + Gi // 3, "1.3 GiB"), (5 << 50, "5 PiB"), (5000 << 50, "5000 PiB")],
)  # fmt: skip
def test_a_size_is_shown_in_binary_units(size: int, text: str) -> None:
    assert human_size(size) == text


@given(st.integers(0, (1 << 63) - 1))
def test_a_shown_size_is_near_the_true_one(size: int) -> None:
    number, unit = human_size(size).split()
    factor = {"B": 1, "KiB": Ki, "MiB": Mi, "GiB": Gi, "TiB": Ti, "PiB": 1 << 50}[unit]
    assert abs(Decimal(number) * factor - size) <= Decimal("0.051") * factor


@pytest.mark.parametrize(
    ("value", "formatter", "shown"),
    [
        (Size(Ki), "json", 1024),
        (Size(Ki), "value", 1024),
        (Size(Ki), "csv", 1024),
        (None, "json", None),
        (None, "value", ""),
        (None, "table", ""),
        (Time(1.5), "json", 1.5),
        (Listed(["a", "b"]), "json", ["a", "b"]),
        (Listed(["a", "b"]), "value", "a, b"),
        (Facts({"a": 1, "at": Time(2.5), "none": None}), "json", {"a": 1, "at": 2.5, "none": None}),
        (Facts({"a": 1, "b": (2, 3), "none": None}), "value", "a: 1, b: 2, 3"),
        (True, "value", True),
    ],
)
def test_machines_get_plain_values(value: object, formatter: str, shown: object) -> None:
    assert cell(value, formatter) == shown


def test_people_get_units() -> None:
    assert str(cell(Size(3 * Mi // 2), "table")) == "1.5 MiB"
    assert str(cell(Facts({"a": 1, "b": None}), "table")) == "a: 1"


def test_several_things_tell_what_is_true_by_its_name_and_a_zero_as_it_is() -> None:
    told = Several(
        [{"name": "disk", "size": Size(Gi), "fetched": True}, {"base": None, "fetched": False, "seconds": 0}]
    )
    assert told.human_readable() == "disk 1 GiB fetched\n0"
    assert told.machine_readable()[1] == {"base": None, "fetched": False, "seconds": 0}
