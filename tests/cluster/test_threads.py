"""Pieces of work on threads: all done once, alone on their thread, errors told, in a child process too."""

import os
import threading

import pytest
import torch

from tiebreak.cluster.threads import run_pieces


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_every_piece_is_done_once_by_several_threads_that_use_no_others():
    seen, meeting = [], threading.Barrier(3)

    def work(piece: int) -> None:
        if piece < 3:
            meeting.wait(60)  # passes once three threads have begun
        seen.append((piece, threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()))

    run_pieces(work, range(50))
    assert sorted(piece for piece, *_ in seen) == list(range(50))
    assert len({ident for _, ident, *_ in seen}) == 3 and threading.get_ident() not in {ident for _, ident, *_ in seen}
    assert {(threads, grad) for *_, threads, grad in seen} == {(1, False)}
    assert torch.get_num_threads() == 3
    new = []
    thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert new == [3], "threads of others have lost theirs"


def test_an_error_of_a_piece_is_the_callers():
    def work(piece: int) -> None:
        if piece == 7:
            raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        run_pieces(work, range(20))
    run_pieces(lambda piece: None, range(20))


def test_inference_tensors_can_be_written_to():
    with torch.inference_mode():
        out = torch.zeros(8)
        run_pieces(lambda piece: out[piece].fill_(piece), range(8))
    assert out.tolist() == list(range(8))


def test_a_forked_child_has_threads_of_its_own():
    run_pieces(lambda piece: None, range(8))
    child = os.fork()
    if child == 0:
        done = []
        run_pieces(done.append, range(8))
        os._exit(0 if sorted(done) == list(range(8)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
