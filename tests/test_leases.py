"""Leases: one holder, taken over from the dead and the silent, given back."""

import json
import multiprocessing
import os
import threading
import time

from tiebreak import leases
from tiebreak.leases import folder_time, has_expired, held


def test_a_lease_has_one_holder_and_is_given_back(tmp_path):
    path = tmp_path / "x.lease"
    with held(path, 60) as first, held(path, 60) as second:
        assert first and not second
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()
    with held(path, 60) as again:
        assert again


def test_a_holder_that_is_silent_for_too_long_is_taken_over_and_does_not_give_back_anothers(tmp_path, monkeypatch):
    path = tmp_path / "x.lease"
    with held(path, 1e6) as mine:
        assert mine
        monkeypatch.setattr(leases, "_machine", lambda: "another")  # where our process number means nothing
        os.utime(path, (folder_time(tmp_path) - 50,) * 2)
        assert not has_expired(path, 60)
        with held(path, 60) as early:
            assert not early
        assert has_expired(path, 40)
        with held(path, 40) as theirs:
            assert theirs
            content = path.read_text()
            assert json.loads(content)["machine"] == "another"
            assert not has_expired(path, 40)
        path.write_text(content)  # the other is back at it when we end
    assert path.read_text() == content
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_stamp_of_the_future_is_taken_over(tmp_path, monkeypatch):
    """Its machine's clock was set back since, so its time never comes."""
    path = tmp_path / "x.lease"
    with held(path, 1e6):
        monkeypatch.setattr(leases, "_machine", lambda: "another")
        os.utime(path, (folder_time(tmp_path) + 30,) * 2)
        assert not has_expired(path, 60)  # clocks differ by seconds
        os.utime(path, (folder_time(tmp_path) + 1e6,) * 2)
        with held(path, 60) as theirs:
            assert theirs


def test_a_holder_at_work_keeps_its_lease(tmp_path):
    path = tmp_path / "x.lease"
    with held(path, 0.4):
        for _ in range(6):
            time.sleep(0.2)
            # Twice the time: a busy machine may delay a touch, not by a whole lease.
            assert not has_expired(path, 0.8)


def test_a_dead_holder_of_this_machine_is_taken_over_at_once(tmp_path):
    path = tmp_path / "x.lease"

    def die():
        with held(path, 1e6):
            os._exit(9)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == 9
    assert path.exists() and has_expired(path, 1e6)
    with held(path, 1e6) as mine:
        assert mine


def test_a_holder_killed_while_it_wrote_its_lease_expires_by_time(tmp_path):
    path = tmp_path / "x.lease"
    path.touch()
    with held(path, 1e6) as mine:
        assert not mine
    os.utime(path, (folder_time(tmp_path) - 100,) * 2)
    with held(path, 60) as mine:
        assert mine


def test_many_who_take_over_one_expired_lease_are_one(tmp_path):
    """Every thread sees the same expired lease; nobody may hold it beside another."""
    path = tmp_path / "x.lease"
    for _ in range(100):
        path.write_text("{}")
        os.utime(path, (0, 0))
        together, holders, gate = threading.Barrier(8), [], threading.Event()

        def take(together=together, holders=holders, gate=gate):
            together.wait()
            with held(path, 60) as mine:
                holders.append(mine)
                gate.wait()

        threads = [threading.Thread(target=take, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(holders) < 8:
            time.sleep(0.001)
        assert sum(holders) == 1
        gate.set()
        for thread in threads:
            thread.join()
        assert not path.exists()


def test_a_file_server_whose_clock_stands_still_keeps_no_lease_for_ever(tmp_path, monkeypatch):
    path = tmp_path / "x.lease"
    path.write_text(json.dumps({"machine": "another", "pid": 1, "started": "5", "token": "x"}))
    stamp = path.stat().st_mtime
    monkeypatch.setattr(leases, "folder_time", lambda folder: stamp)
    assert not has_expired(path, 0.2)
    time.sleep(0.25)
    assert has_expired(path, 0.2)
    path.write_text(json.dumps({"machine": "another", "pid": 1, "started": "5", "token": "y"}))
    os.utime(path, (stamp, stamp))
    assert not has_expired(path, 0.2), "somebody else has it since"
