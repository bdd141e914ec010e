"""What a session remembers, and how sessions begin and end, without a model."""

import threading
import time

import pytest

from hyperinverter.app.lane import BusyError, Lane
from hyperinverter.app.session import MOST_STEPS, EndedError, Session, Sessions, Settings
from hyperinverter.utils.errors import UserError

SMILE, AGED = Settings({"smile": 2.0}), Settings({"smile": 2.0, "age": 1.0})


def test_undo_and_redo_walk_the_history_and_a_new_step_forgets_what_was_undone():
    session = Session()
    session.undo()
    assert session.settings == Settings()
    session.change(SMILE)
    session.change(SMILE)  # no step
    session.change(AGED)
    assert session.history == [Settings(), SMILE, AGED]
    session.undo()
    assert session.settings == SMILE
    session.redo()
    session.redo()
    assert session.settings == AGED
    session.go(0)
    assert session.settings == Settings()
    session.go(1)
    session.change(Settings({"age": -1.0}))
    assert session.history == [Settings(), SMILE, Settings({"age": -1.0})]
    with pytest.raises(UserError, match="steps 0 to 2"):
        session.go(3)


def test_reset_is_a_step_that_can_be_undone():
    session = Session()
    session.change(Settings({"smile": 2.0}, 0.5, True))
    session.reset()
    assert session.settings == Settings()
    session.undo()
    assert session.settings == Settings({"smile": 2.0}, 0.5, True)


def test_history_is_bounded():
    session = Session()
    for number in range(MOST_STEPS + 10):
        session.change(Settings({"smile": float(number + 1)}))
    assert len(session.history) == MOST_STEPS and session.at == MOST_STEPS - 1


def test_sessions_are_apart_and_end_when_they_are_not_used():
    now = [0.0]
    sessions = Sessions(minutes=30, most=2, clock=lambda: now[0])
    first, second = sessions.open(), sessions.open()
    assert first != second and len(first) > 20
    sessions.get(first).change(SMILE)
    assert sessions.get(second).settings == Settings()
    with pytest.raises(UserError, match="2 people are at work"):
        sessions.open()
    now[0] = 20 * 60
    assert sessions.get(first).settings == SMILE
    now[0] = 45 * 60
    assert sessions.get(first).settings == SMILE  # used in between
    with pytest.raises(EndedError, match="30 minutes"):
        sessions.get(second)
    sessions.close(first)
    assert len(sessions) == 0
    with pytest.raises(EndedError):
        sessions.get("")


def test_a_lane_does_one_thing_at_a_time_in_the_order_of_asking():
    lane, order, go = Lane("test", 3), [], threading.Event()

    def work(name: str) -> str:
        go.wait(10)
        order.append(name)
        return name

    futures = [lane.submit(work, name) for name in "abc"]
    assert lane.waiting == 3
    with pytest.raises(BusyError, match="3 requests are waiting"):
        lane.submit(work, "d")
    futures[1].cancel()  # its browser went away
    go.set()
    assert futures[2].result(10) == "c" and order == ["a", "c"]
    until = time.monotonic() + 10
    while lane.waiting and time.monotonic() < until:
        time.sleep(0.01)
    assert lane.submit(work, "e").result(10) == "e"
    lane.close()
