"""The command runner: a process under limits, that dies with this one.

Limits are set by prlimit(1), which costs a millisecond where oslo.concurrency's
``prlimit=`` starts another Python; ``setpriv --pdeathsig`` has the kernel end the command
when the *thread* that started it ends, so that thread waits for it here.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgbackend import errors

PACKAGES: Final = {"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "prlimit": "util-linux", "setpriv": "util-linux"}
"""The Debian package of each command that is always needed."""
_FURTHER_PACKAGES: Final = {
    **dict.fromkeys(("mkfs.ext2", "mkfs.ext3", "mkfs.ext4"), "e2fsprogs"),
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.vfat": "dosfstools",
    "mkfs.ntfs": "ntfs-3g",
    "mkswap": "util-linux",
    "ssh": "openssh-client",
}
"""Of those that some disks need."""
_SBIN: Final = "/usr/sbin:/sbin"
"""Folders that users other than root may not have in their PATH."""
_LOOK: Final = 0.2
_MOST_PRINTED: Final = 16 << 20
"""Bytes that a command may print: a broken image can have a complaint about each of its clusters."""
_PIECE: Final = 64 << 10
_NO_MEMORY: Final = ("cannot allocate memory", "failed to allocate", "out of memory", "qemu_thread_create")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLimits:
    """What a command may use; None is no limit."""

    cpu_seconds: int
    address_space: int
    file_size: int | None = None
    """Bytes that any file it writes may have."""
    stall_seconds: int = 60
    """How long it may neither compute nor read nor write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixIdentity:
    """Who a command runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def wrapped(argv: Sequence[str], limits: CommandLimits, identity: UnixIdentity | None) -> list[str]:
    """The command line with its limits before it."""
    line = ["prlimit", f"--cpu={limits.cpu_seconds}:{limits.cpu_seconds + 2}", f"--as={limits.address_space}"]
    if limits.file_size is not None:
        line.append(f"--fsize={limits.file_size}")
    line += ["--core=0", "--", "setpriv", "--pdeathsig", "KILL"]
    if identity is not None:
        line += [f"--reuid={identity.uid}", f"--regid={identity.gid}", "--no-new-privs", "--inh-caps=-all"]
        groups = ",".join(str(group) for group in identity.groups)
        line.append(f"--groups={groups}" if groups else "--clear-groups")
    return [*line, "--", *argv]


def run(
    argv: Sequence[str],
    *,
    limits: CommandLimits,
    pass_fds: Sequence[int] = (),
    identity: UnixIdentity | None = None,
    watch: Callable[[str], None] | None = None,
) -> str:
    """What ``argv`` prints on its standard output.

    ``watch`` is called a few times a second with the end of what was printed; raising
    from it ends the command, and passes through.  No shell is ever involved.

    :raises ConfigError: if the command is not installed; it names the package.
    :raises CommandFailed: if it ends with another status than 0, or a limit fired: the
        error says which.
    """
    with _running(wrapped(argv, limits, identity), argv, pass_fds) as started:
        out, err, ended = _follow(started, limits.stall_seconds, watch)
    if ended:
        raise errors.CommandFailed(argv, started.returncode, err, reason=ended)
    if started.returncode:
        _missing(argv, started.returncode, err)
        reason = _limit(started.returncode, err, limits)
        raise errors.CommandFailed(argv, started.returncode, err or out, reason=reason, printed=out)
    return out


def stream(argv: Sequence[str], *, limits: CommandLimits) -> Generator[bytes, None, None]:
    """What ``argv`` prints on its standard output, as it comes; closing the generator ends the command.

    It is started when the first piece is asked for, and has to be read by one thread.

    :raises ConfigError: as :func:`run`.
    :raises CommandFailed: as :func:`run`, when all that was printed has been had.
    """
    said = bytearray()
    with _running(wrapped(argv, limits, None), argv, ()) as started:
        yield from _printed(started, argv, limits.stall_seconds, said)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(limits.stall_seconds)
    if started.returncode:
        err = said.decode(errors="replace")
        _missing(argv, started.returncode, err)
        raise errors.CommandFailed(argv, started.returncode, err, reason=_limit(started.returncode, err, limits))


def _printed(started: "subprocess.Popen[bytes]", argv: Sequence[str], stall: float, said: bytearray) -> Iterator[bytes]:
    """The pieces of standard output; the end of what comes on standard error goes to ``said``."""
    assert started.stdout is not None  # noqa: S101 - Popen was given PIPE; this tells mypy so
    assert started.stderr is not None  # noqa: S101 - as above
    with selectors.DefaultSelector() as selector:
        for pipe in (started.stdout, started.stderr):
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(stall)
            if not ready:
                raise errors.CommandFailed(argv, 0, "", reason=f"sent nothing for {stall} s")
            for key, _ in ready:
                data = os.read(key.fd, _PIECE)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is started.stdout:
                    yield data
                else:
                    said += data
                    del said[:-_PIECE]


@contextlib.contextmanager
def _running(line: list[str], argv: Sequence[str], pass_fds: Sequence[int]) -> "Iterator[subprocess.Popen[bytes]]":
    """A command; it is ended, where it has not, and over when the block is left."""
    with _start(line, argv, pass_fds) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def _start(line: list[str], argv: Sequence[str], pass_fds: Sequence[int]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            process_group=0,  # a Ctrl-C is for this process, which then ends the command in its own time
            env={**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"},
        )
    except FileNotFoundError as exc:
        raise errors.ConfigError(f"{line[0]} is not installed; install {PACKAGES[line[0]]}") from exc
    except OSError as exc:
        raise errors.StorageError(f"cannot start {argv[0]}: {exc.strerror}") from exc


def _follow(
    started: "subprocess.Popen[bytes]", stall: float, watch: Callable[[str], None] | None
) -> tuple[str, str, str]:
    """All output, and why the command has to be ended, if it has to."""
    assert started.stdout is not None  # noqa: S101 - Popen was given PIPE; this tells mypy so
    assert started.stderr is not None  # noqa: S101 - as above
    printed = {started.stdout.fileno(): bytearray(), started.stderr.fileno(): bytearray()}
    out = printed[started.stdout.fileno()]
    last, since = _work_done(started.pid), time.monotonic()
    with selectors.DefaultSelector() as selector:
        for fd in printed:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(_LOOK)
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                printed[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
            if sum(map(len, printed.values())) > _MOST_PRINTED:
                return "", "", f"printed more than {_MOST_PRINTED} bytes"
            if watch is not None:
                watch(out[-64:].decode(errors="replace"))
            if not ready:
                now = _work_done(started.pid)
                if now != last:
                    last, since = now, time.monotonic()
                elif time.monotonic() - since > stall:
                    return "", "", f"did nothing for {stall} s"
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(stall)
    texts = [bytes(text).decode(errors="replace") for text in printed.values()]
    return texts[0], texts[1], f"did nothing for {stall} s" if started.returncode is None else ""


def _work_done(pid: int) -> tuple[str, ...]:
    """CPU ticks, and bytes read and written, by a process; equal twice: it stood still."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        moved = Path(f"/proc/{pid}/io").read_text().splitlines()[:2]
    except OSError:
        return ()
    return (*ticks, *moved)


def _missing(argv: Sequence[str], status: int, err: str) -> None:
    """prlimit, setpriv and the dynamic linker report by their own words what cannot be started."""
    for name in ("setpriv", argv[0]):
        if status in (127, 1, 69) and f"{name}: No such file or directory" in err:
            raise errors.ConfigError(f"{name} is not installed; install {_package(name)}")
        if status in (126, 127) and (f"{name}: Permission denied" in err or "error while loading shared lib" in err):
            told = err.strip().splitlines()[-1]
            raise errors.ConfigError(
                f"{argv[0]} cannot be started as the user that it is to run as: {told}; see unprivileged_user, "
                "and that this user may pass through / and the folders of commands and libraries"
            )


def _package(name: str) -> str:
    return PACKAGES.get(name) or _FURTHER_PACKAGES.get(name) or f"the package that has {name}"


def _limit(status: int, err: str, limits: CommandLimits) -> str | None:
    if status == -signal.SIGXCPU:
        return f"was ended by its limit of {limits.cpu_seconds} s of CPU time"
    if status == -signal.SIGXFSZ or "File too large" in err:
        return f"was ended by its limit of {limits.file_size} bytes in a file"
    if any(words in err.lower() for words in _NO_MEMORY):
        return f"was ended by its limit of {limits.address_space} bytes of memory"
    return None
