"""Batches that are copied ahead: the order of what is asked of the device."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from esvit_fast.data import Batch, TooManyCorrupt, prefetch

GPU = torch.device("cuda", 0)


class Streams:
    """Stands in for torch.cuda, and writes down what is asked of it."""

    def __init__(self):
        self.calls, self.copying = [], False

    def Stream(self, device):  # noqa: N802
        assert device == GPU
        return FakeStream(self, "copies")

    def current_stream(self, device):
        assert device == GPU
        return FakeStream(self, "work")

    @contextmanager
    def stream(self, stream):
        assert stream.name == "copies" and not self.copying
        self.copying = True
        yield
        self.copying = False


class FakeStream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def record_event(self):
        assert self.name == "copies"
        return sum(call[0] == "copy" for call in self.cuda.calls)  # what is copied when the event is reached

    def wait_event(self, event):
        self.cuda.calls.append(("wait", self.name, event))


class Crop:
    """A pinned tensor, or its copy on the device."""

    def __init__(self, cuda, name, place="cpu"):
        self.cuda, self.name, self.place = cuda, name, place

    def to(self, device, non_blocking):
        assert device == GPU and non_blocking and self.cuda.copying and self.place == "cpu"
        self.cuda.calls.append(("copy", self.name))
        return Crop(self.cuda, self.name, "gpu")

    def record_stream(self, stream):
        assert self.place == "gpu" and not self.cuda.copying
        self.cuda.calls.append(("keep", self.name, stream.name))


def batch(number, crops):
    return Batch(crops, torch.full((1,), number), torch.tensor([number]), [(number, "path", "why")])


def loader(cuda, count, failure=None):
    for number in range(count):
        cuda.calls.append(("load", number))
        yield batch(number, [Crop(cuda, f"{number}a"), Crop(cuda, f"{number}b")])
    if failure is not None:
        raise failure


def of_batch(number):
    copied = 2 * (number + 1)
    return [("wait", "work", copied), ("keep", f"{number}a", "work"), ("keep", f"{number}b", "work")]


def sent(number):
    return [("load", number), ("copy", f"{number}a"), ("copy", f"{number}b")]


def test_the_next_batch_is_sent_before_one_is_handed_out():
    cuda = Streams()
    for number, got in enumerate(prefetch(loader(cuda, 3), GPU, cuda)):
        cuda.calls.append(("step", number))
        assert got.index.tolist() == [number] and got.draws.tolist() == [number] and got.failures[0][0] == number
        assert [(crop.name, crop.place) for crop in got.crops] == [(f"{number}a", "gpu"), (f"{number}b", "gpu")]
    first = [*sent(0), *sent(1), *of_batch(0), ("step", 0)]
    assert cuda.calls == [*first, *sent(2), *of_batch(1), ("step", 1), *of_batch(2), ("step", 2)]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_good_batches_come_before_what_ends_them(count):
    cuda = Streams()
    batches = prefetch(loader(cuda, count, TooManyCorrupt("enough")), GPU, cuda)
    assert [next(batches).index.tolist() for _ in range(count)] == [[number] for number in range(count)]
    with pytest.raises(TooManyCorrupt, match="enough"):
        next(batches)


@pytest.mark.parametrize("device", [GPU, torch.device("cpu")], ids=str)
def test_what_is_encoded_is_decoded_where_others_are_copied(device):
    cuda, on_gpu = Streams(), device == GPU

    def decode(batch, where):
        assert where == device and cuda.copying == on_gpu
        cuda.calls.append(("copy", batch.jpegs))
        return batch._replace(crops=[Crop(cuda, batch.jpegs, "gpu")], jpegs=None)

    given = [batch(0, [])._replace(jpegs="0"), batch(1, [Crop(cuda, "1")]), batch(2, [])._replace(jpegs="2")]
    assert [got.crops[0].name for got in prefetch(given, device, cuda, decode)] == ["0", "1", "2"]
    copies = [("copy", "0"), ("copy", "1"), ("copy", "2")] if on_gpu else [("copy", "0"), ("copy", "2")]
    assert [call for call in cuda.calls if call[0] == "copy"] == copies
    waited = [call for call in cuda.calls if call[0] == "wait"]
    assert waited == [("wait", "work", number + 1) for number in range(3)] * on_gpu


def test_a_loop_may_leave():
    cuda = Streams()
    batches = prefetch(loader(cuda, 9), GPU, cuda)
    next(batches)
    batches.close()
    assert [call for call in cuda.calls if call[0] == "load"] == [("load", 0), ("load", 1)]


def test_a_cpu_is_given_the_batches_as_they_come():
    given = [batch(n, [torch.zeros(1)]) for n in range(3)]
    taken, seen = iter(given), []
    for got in prefetch(taken, torch.device("cpu"), None):
        seen.append(got)
        if len(seen) == 1:
            assert next(taken) is given[1]  # nothing was read ahead
    assert len(seen) == 2 and seen[0] is given[0] and seen[1] is given[2]
