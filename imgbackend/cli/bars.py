"""Progress bars on a terminal: the one module that imports rich."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from imgbackend.cli.figures import human_size


class _Amount(ProgressColumn):
    """Bytes done, and of how many."""

    def render(self, task: Task) -> Text:
        if not task.completed:
            return Text("")
        of = f" of {human_size(task.total)}" if task.total else ""
        return Text(human_size(task.completed) + of)


class _Rate(ProgressColumn):
    """Bytes a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{human_size(int(speed))}/s" if speed else "")


class Bars:
    """One bar for each phase, with bytes, rate and the time left; gone from the screen at the end."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            _Amount(),
            _Rate(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def update(self, phase: str, done: int, total: int | None) -> None:
        """Move the bar of ``phase``; the first figure makes it."""
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=total)
        self._progress.update(self._tasks[phase], completed=done, total=total)

    def close(self, *, whole: bool) -> None:  # noqa: ARG002 - the form of every View
        """Take the bars away and give the terminal back, whether or not the work succeeded."""
        self._progress.stop()
