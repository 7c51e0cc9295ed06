"""Signals that ask a run to stop, in this process."""

import argparse
import os
import signal

import pytest

from passl.cli.common import run_command
from passl.distributed.interrupts import Interrupted, Interrupts


@pytest.fixture(autouse=True)
def handlers():
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for signum, handler in before.items():
        signal.signal(signum, handler)


def ask(signum):
    os.kill(os.getpid(), signum)
    signal.getsignal(signum)  # Python calls the handler between two operations


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted(signum, handlers):
    with Interrupts() as stop:
        assert not stop()
        ask(signum)
        assert stop() and stop.signum == signum
    assert signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]


def test_a_second_ctrl_c_ends_at_once():
    with Interrupts():
        ask(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            ask(signal.SIGINT)


def test_what_was_not_asked_to_stop_can_be_ended_as_before(handlers):
    with Interrupts():
        pass
    assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]


def test_one_that_stops_with_others_is_not_killed_on_its_way_out():
    with pytest.raises(Interrupted), Interrupts():
        raise Interrupted(signal.SIGTERM)  # another process received it
    ask(signal.SIGTERM)


def test_launchers_repeat_a_wish_until_the_process_has_ended():
    """The exit code is that of the wish, 143, and not of a process that a signal killed."""
    with Interrupts():
        ask(signal.SIGTERM)
    ask(signal.SIGTERM)

    def stopped(arguments):
        raise Interrupted(signal.SIGTERM)

    parser = argparse.ArgumentParser()
    parser.add_argument("--debug", action="store_true")
    assert run_command(stopped, parser, []) == 143
    # Not a function, which Python would take away before the end.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    ask(signal.SIGTERM)
