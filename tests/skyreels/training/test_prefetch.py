"""Batches ahead of the step."""

import os
import threading
import time

import pytest
import torch

from skyreels.training.prefetch import Prefetch, ReaderProcesses
from skyreels.training.trainable import Slot


def slots(count):
    return iter([Slot(step, 0) for step in range(count)])


def test_order_is_kept_and_nothing_is_read_too_far_ahead():
    asked, gate = [], threading.Semaphore(0)

    def read(slot):
        asked.append(slot.step)
        gate.release()
        time.sleep(0.005 * (slot.step % 3))
        return slot.step

    prefetch = Prefetch(read, slots(20), ahead=4, threads=3)
    for _ in range(4):
        gate.acquire()
    time.sleep(0.02)
    assert sorted(asked) == [0, 1, 2, 3]
    assert [prefetch.take()[0] for _ in range(20)] == list(range(20))
    prefetch.close()


def test_waiting_is_what_the_caller_waited():
    gates = {step: threading.Event() for step in range(2)}
    prefetch = Prefetch(lambda slot: gates[slot.step].wait(), slots(2), ahead=2, threads=1)
    asked = time.perf_counter()
    opening = threading.Timer(0.1, gates[0].set)
    opening.start()
    begin = time.perf_counter()
    waited = prefetch.take()[1]
    end = time.perf_counter()
    assert 0.1 - (begin - asked) <= waited <= end - begin
    gates[1].set()
    prefetch.close()
    while any(thread.name.startswith("batch") for thread in threading.enumerate()):
        time.sleep(0.001)
    waited = prefetch.take()[1]
    assert waited < 0.1, "the batch was there before it was asked for"


def test_an_error_is_raised_where_its_batch_is_taken():
    def read(slot):
        if slot.step == 1:
            raise KeyError("shard-7")
        return slot.step

    prefetch = Prefetch(read, slots(3), ahead=3, threads=1)
    assert prefetch.take()[0] == 0
    with pytest.raises(KeyError, match="shard-7"):
        prefetch.take()
    prefetch.close()


def reader(read, count, processes=2):
    return ReaderProcesses(read, slots(count), ahead=2, processes=processes, pinned=False)


def test_processes_keep_the_order_and_are_others():
    def read(slot):
        time.sleep(0.005 * (slot.step % 3))
        return slot.step, os.getpid()

    ahead = reader(read, 12)
    taken = [ahead.take()[0] for _ in range(12)]
    ahead.close()
    assert [step for step, _ in taken] == list(range(12))
    assert len({process for _, process in taken} - {os.getpid()}) == 2


def test_tensors_come_from_processes_as_they_were_made():
    ahead = reader(lambda slot: {"noise": torch.full((3,), float(slot.step))}, 4)
    assert all(torch.equal(ahead.take()[0]["noise"], torch.full((3,), float(step))) for step in range(4))
    ahead.close()


def test_an_error_in_a_process_is_raised_where_its_batch_is_taken():
    def read(slot):
        if slot.step == 1:
            raise ValueError("shard-7 is damaged")
        return slot.step

    ahead = reader(read, 4)
    assert ahead.take()[0] == 0
    with pytest.raises(ValueError, match="shard-7 is damaged"):
        ahead.take()
    ahead.close()
