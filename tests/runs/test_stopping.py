from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from ackd.runs import stopping
from ackd.runs.stopping import Stopped, defer_interrupts, hold, release, stop, stop_asked, stoppable


def ask(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_holds_it_not_back(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in stopping.SIGNALS]
    with pytest.raises(Stopped) as stopped, stoppable():
        ask(number)
    assert stopped.value.number == number
    assert [signal.getsignal(one) for one in stopping.SIGNALS] == before
    assert not stop_asked()
    with stoppable():  # nothing of it is left
        hold()
        release()


def test_it_waits_for_a_good_moment() -> None:
    reached = False

    def work() -> None:
        nonlocal reached
        with stoppable():
            hold()
            assert not stop_asked()
            ask()
            reached = stop_asked()
            stop()

    with pytest.raises(Stopped) as stopped:
        work()
    assert reached
    assert stopped.value.number == signal.SIGTERM


def held(then: Callable[[], object]) -> None:
    with stoppable():
        hold()
        ask()
        then()
        pytest.fail("it went on")


def test_the_end_of_what_holds_it_back_is_such_a_moment() -> None:
    with pytest.raises(Stopped):
        held(release)


def test_what_is_not_to_be_left_half_made_is_made_whole() -> None:
    made = []

    def make() -> None:
        with defer_interrupts():
            ask()
            made.append("whole")
        made.append("more")

    with pytest.raises(Stopped), stoppable():
        make()
    assert made == ["whole"]


def test_what_is_made_whole_within_what_holds_does_not_end_that() -> None:
    went_on = []

    def work() -> None:
        with defer_interrupts():
            pass
        went_on.append(stop_asked())
        release()

    with pytest.raises(Stopped):
        held(work)
    assert went_on == [True]


def test_a_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SAME", 0.0)
    with pytest.raises(Stopped) as stopped:
        held(lambda: ask(signal.SIGINT))
    assert stopped.value.number == signal.SIGINT


def test_one_that_was_sent_twice_does() -> None:
    went_on = []

    def again() -> None:
        ask()
        went_on.append(True)
        stop()

    with pytest.raises(Stopped):
        held(again)
    assert went_on


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", 0.2)
    monkeypatch.setattr(stopping, "SAME", 0.0)
    began = time.monotonic()
    with pytest.raises(Stopped):
        held(lambda: time.sleep(5))
    assert 0.2 <= time.monotonic() - began < 4


def test_the_deaf_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", 0.2)
    monkeypatch.setattr(stopping, "LAST", 0.2)
    child = os.fork()
    if not child:
        with stoppable():
            hold()
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            ctypes.CDLL(None).system(b"sleep 5")  # comes back to Python for no signal
        os._exit(0)
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 4


def test_a_fork_does_not_answer_for_its_parent() -> None:
    with stoppable():
        hold()
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert not stop_asked()


def test_other_threads_are_not_bothered() -> None:
    before, done = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stoppable():
            done.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [before]
