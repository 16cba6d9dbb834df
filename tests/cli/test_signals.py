"""Where a signal raises: at once, only where the main thread waits, or not until the work is done."""

import os
import selectors
import signal
import socket

import pytest

from imgbackend.cli.signals import CAUGHT, Cancelled, Signals


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", CAUGHT)
def test_a_signal_raises_at_once_where_nothing_is_made(signum: int) -> None:
    with Signals(), pytest.raises(Cancelled) as caught:
        send(signum)
    assert (caught.value.signum, caught.value.status) == (signum, 128 + signum)


def test_while_something_is_made_it_raises_from_the_next_progress_call() -> None:
    with Signals() as signals, signals.held(interruptible=True):
        send(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(Cancelled):
            signals.check()


def test_a_wait_for_a_socket_is_interrupted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Signals() as signals, ours.makefile("rb") as file, signals.held(interruptible=True):
        send(signal.SIGINT)
        with pytest.raises(Cancelled):
            file.read(1)


def test_a_wait_for_a_command_is_interrupted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Signals() as signals, selectors.DefaultSelector() as selector:
        selector.register(ours, selectors.EVENT_READ)
        with signals.held(interruptible=True):
            send(signal.SIGTERM)
            with pytest.raises(Cancelled):
                selector.select()


def test_what_is_not_to_be_interrupted_goes_on_while_it_waits() -> None:
    with Signals() as signals, selectors.DefaultSelector() as selector:
        with signals.held(interruptible=False):
            send(signal.SIGINT)
            selector.select(0.3)  # longer than the timer that would interrupt it
        with pytest.raises(Cancelled):
            signals.check()


def test_only_the_first_signal_counts() -> None:
    with Signals() as signals:
        with pytest.raises(Cancelled):
            send(signal.SIGTERM)
        send(signal.SIGINT)
        send(signal.SIGHUP)
        assert signals.received == signal.SIGTERM


def test_what_the_signals_did_before_they_do_again() -> None:
    watched = (*CAUGHT, signal.SIGALRM)
    before = [signal.getsignal(signum) for signum in watched]
    with Signals():
        assert [signal.getsignal(signum) for signum in watched] != before
    assert [signal.getsignal(signum) for signum in watched] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            send(signal.SIGHUP)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
