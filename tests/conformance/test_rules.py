"""The rules that a consumer of the kit is held to, and that it runs clean for them."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from imgbackend.testing import BackendConformance, MemoryBackend, children, conforming
from imgbackend.testing._faults import FaultTests
from imgbackend.testing.sampling import sampled
from imgbackend.testing.trial import Trial
from imgbackend.types import Mi
from imgbackend_raw import RawBackend

_CONSUMER: Final = """\
import pytest

from imgbackend.testing import BackendConformance, MemoryBackend, conforming


class TestMemory(BackendConformance):
    known_deviations = {deviations!r}

    @pytest.fixture
    def backend(self, tmp_path):
        with conforming({kind}, tmp_path, {{"folder": str(tmp_path / "memory")}}) as backend:
            yield backend
"""
_TESTS: Final = Path(__file__).parents[1]
_EXAMPLES: Final = _TESTS.parent / "doc/examples"
_STRICT: Final = ("-W", "error", "--strict-markers", "--strict-config", "-p", "no:cacheprovider", "-rA")


def _consume(folder: Path, *words: str, deviations: dict[str, str] | None = None, before: str = "") -> str:
    """What pytest says of a consumer's test file, in a project of its own."""
    kind = "Kind" if before else "MemoryBackend"
    text = _CONSUMER.format(deviations=deviations or {}, kind=kind)
    head, _, tail = text.partition("\n\nclass TestMemory")
    (folder / "test_it.py").write_text(f"{head}\n{before}\n\nclass TestMemory{tail}")
    argv = [sys.executable, "-m", "pytest", *_STRICT, "-c", "/dev/null", f"--rootdir={folder}", "test_it.py", *words]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout + done.stderr


def test_consumer_runs_clean_with_every_warning_an_error(tmp_path: Path) -> None:
    told = _consume(tmp_path, "-k", "new_disk or growth or once or threads")
    assert " failed" not in told
    assert " error" not in told
    assert " passed" in told


def test_test_that_is_replaced_is_refused() -> None:
    with pytest.raises(TypeError, match="test_removed_disk_is_gone; say why in known_deviations"):
        type("TestCheat", (BackendConformance,), {"test_removed_disk_is_gone": None})


def test_test_that_is_replaced_by_another_base_is_refused() -> None:
    cheat = type("Cheat", (), {"test_removed_disk_is_gone": None})
    with pytest.raises(TypeError, match="test_removed_disk_is_gone"):
        type("TestCheat", (cheat, BackendConformance), {})


@pytest.mark.parametrize(
    ("deviations", "told"),
    [({"test_that_never_was": "no"}, "names no test"), ({"test_removed_disk_is_gone": " "}, "gives no reason")],
)
def test_deviation_that_means_nothing_is_refused(deviations: dict[str, str], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        type("TestCheat", (BackendConformance,), {"known_deviations": deviations})


@pytest.mark.parametrize("sample", [1, 0, -3])
def test_sample_without_first_and_last_point_is_refused(sample: int) -> None:
    with pytest.raises(TypeError, match="crash_sample"):
        type("TestCheat", (BackendConformance,), {"crash_sample": sample})


def test_sample_takes_first_last_and_the_same_between() -> None:
    points = [f"p{number}" for number in range(40)]
    for most in (2, 3, 6, 39):
        chosen = sampled(points, most)
        assert len(chosen) == len(set(chosen)) == most
        assert (chosen[0], chosen[-1]) == ("p0", "p39")
        assert chosen == sorted(chosen, key=points.index) == sampled(points, most)


@pytest.mark.parametrize("most", [None, 40, 41])
def test_all_points_are_tried_where_nothing_is_left_out(most: int | None) -> None:
    assert sampled(range(40), most) == list(range(40))


def test_sample_limits_every_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many children end by a kill or a fault, and no more."""
    acted: list[int] = []
    real = children.Child.__init__

    def counted(
        self: children.Child, operation: Callable[[], object], at: int | None = None, *rest: Any, **also: Any
    ) -> None:
        if at is not None:
            acted.append(at)
        real(self, operation, at, *rest, **also)

    monkeypatch.setattr(children.Child, "__init__", counted)
    sample: Any = type("TestSample", (BackendConformance,), {"crash_sample": 3})()
    matrices = (
        sample.test_killed_growth_keeps_the_bytes,
        sample.test_input_output_error_at_each_step_of_creation,
        sample.test_absence_is_told_only_where_it_is_sure,
        sample.test_disks_made_at_once_share_no_temporary_name,
    )
    for number, matrix in enumerate(matrices):
        acted.clear()
        place = tmp_path / str(number)
        place.mkdir()
        with conforming(MemoryBackend, place, {"folder": str(place / "memory")}) as backend:
            matrix(Trial(backend=backend, scratch=place, watched=[], smallest=512))
        assert 0 < len(acted) <= 3


def test_new_demands_count_for_our_own_drivers() -> None:
    """An expected failure would hide that a stock driver does not do what is asked of others."""
    unheld = []
    for path in sorted([*_TESTS.glob("**/*.py"), *_EXAMPLES.glob("*/tests/*.py")]):
        for each in ast.walk(ast.parse(path.read_text())):
            if isinstance(each, ast.ClassDef) and _is_held(each) is False:
                unheld.append(f"{path.name}:{each.lineno} {each.name}")
    assert unheld == [], "these want: advisories_count = True"


def _is_held(kind: ast.ClassDef) -> bool | None:
    """Whether a class sets ``advisories_count``; None: it is no direct subclass of the kit's."""
    if "BackendConformance" not in [base.id for base in kind.bases if isinstance(base, ast.Name)]:
        return None
    return any(ast.unparse(each) == "advisories_count = True" for each in kind.body)


def test_new_demand_counts_where_it_is_asked_to(tmp_path: Path) -> None:
    told = _new_demand(tmp_path, "raise AssertionError('new')", "advisories_count = True")
    assert "1 failed" in told


def test_deviation_that_has_healed_fails(tmp_path: Path) -> None:
    name = "test_removed_disk_is_gone"
    told = _consume(tmp_path, "-k", name, deviations={name: "https://example.org/1: it stays"})
    assert "[XPASS(strict)] https://example.org/1: it stays" in told
    assert "1 failed" in told


def test_deviation_is_an_expected_failure(tmp_path: Path) -> None:
    name = "test_remove_of_an_absent_disk_is_no_error"
    broken = """
class Disk(MemoryBackend.disk_type):
    def remove_image(self):
        self.path.unlink()

class Kind(MemoryBackend):
    disk_type = Disk
"""
    assert "1 failed" in _consume(tmp_path, "-k", name, before=broken)
    told = _consume(tmp_path, "-k", name, deviations={name: "https://example.org/2: it raises"}, before=broken)
    assert "1 xfailed" in told
    assert "failed" not in told.replace("xfailed", "")


def test_deviation_that_does_not_apply_fails(tmp_path: Path) -> None:
    name = "test_rollback_gives_the_bytes_of_the_snapshot"
    told = _consume(tmp_path, "-k", name, deviations={name: "it is slow"})
    assert "which does not apply: not Snapshottable" in told


def test_backend_that_is_forgotten_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from imgbackend.testing import BackendConformance\n\n\nclass TestNone(BackendConformance):\n    pass\n"
    )
    argv = [sys.executable, "-m", "pytest", *_STRICT, "-c", "/dev/null", "-x", f"--rootdir={tmp_path}", "test_it.py"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "fixture 'backend' not found" in done.stdout


def test_reference_backend_is_small() -> None:
    import inspect

    import imgbackend.testing.memory as memory

    assert memory.MemoryBackend is MemoryBackend
    assert len(inspect.getsource(memory).splitlines()) <= 160


@pytest.mark.parametrize(("broken", "told"), [("pass", "1 passed"), ("raise AssertionError('new')", "1 xfailed")])
def test_new_demand_is_told_and_does_not_fail(tmp_path: Path, broken: str, told: str) -> None:
    """For one minor release: a failure is an expected one, and a pass is a pass."""
    said = _new_demand(tmp_path, broken)
    assert told.replace("1 passed", "1 xpassed") in said
    assert " failed" not in said
    assert "advisory, new in suite 1.1" in said


def _new_demand(tmp_path: Path, body: str, setting: str = "") -> str:
    """What pytest says of a consumer's class with a new demand in it."""
    (tmp_path / "test_it.py").write_text(
        f"""
import pytest

from imgbackend.testing import MemoryBackend, conforming
from imgbackend.testing.topic import Topic, advisory


class TestNew(Topic):
    {setting}

    @pytest.fixture
    def backend(self, tmp_path):
        with conforming(MemoryBackend, tmp_path, {{"folder": str(tmp_path / "memory")}}) as backend:
            yield backend

    @advisory("1.1")
    def test_new(self, trial):
        {body}
"""
    )
    argv = [sys.executable, "-m", "pytest", *_STRICT, "-c", "/dev/null", f"--rootdir={tmp_path}", "test_it.py"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout


def test_full_store_is_filled_and_told(small_tmpfs: Callable[[int], Path], tmp_path: Path) -> None:
    """The one demand that needs a small store: the raw driver meets it on 48 MiB."""
    with conforming(RawBackend, small_tmpfs(48 * Mi)) as backend:
        trial = Trial(backend=backend, scratch=tmp_path, watched=[], smallest=512)
        FaultTests().test_full_store_is_told(trial)
        assert not trial.disk().exists()
