"""Values that background threads compute: results, errors and copies."""

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mobilesam.util.deferred import Deferred, in_background


@pytest.mark.parametrize("threads", [0, 1])
def test_a_deferred_value_is_waited_for_and_can_be_copied(threads):
    go = threading.Event()
    executor = ThreadPoolExecutor(1) if threads else None
    if executor is None:
        go.set()  # without an executor, the value is computed immediately
    deferred = Deferred(executor, lambda: [go.wait(60)])
    go.set()
    assert deferred() == [True]
    assert deferred() is deferred()
    assert copy.deepcopy(deferred)() == [True]


def test_an_error_is_raised_each_time():
    with ThreadPoolExecutor(1) as executor:
        deferred = Deferred(executor, int, "x")
        for _ in range(2):
            with pytest.raises(ValueError, match="invalid literal"):
                deferred()


def test_another_thread_may_use_the_value_at_the_same_time():
    with ThreadPoolExecutor(1) as executor:
        deferred = Deferred(executor, list, "ab")

        def ask(frame, event, _):
            if frame.f_code is Deferred.__call__.__code__ and event == "line":
                deferred._value = ["a", "b"]
            return ask

        before = sys.gettrace()
        sys.settrace(ask)
        try:
            assert deferred() == ["a", "b"]
        finally:
            sys.settrace(before)


def test_in_background():
    assert in_background(lambda: 3).result() == 3
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 // 0).result()
