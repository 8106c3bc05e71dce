"""Processes that read images: what is said when one dies, and that none is left."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from esvit_fast.data.loading import workers
from esvit_fast.data.loading.workers import (
    SharedMemoryFull,
    WorkerDied,
    answers,
    check_shared_memory,
    fitting_workers,
    interruptible,
    share,
    start_worker,
)
from esvit_fast.data.tools.each import each
from esvit_fast.errors import UserError

# where Python only prints what a handler of a signal raises, as in what hypothesis does at a garbage collection, it is
# raised again later
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function gc_cumulative_time:pytest.PytestUnraisableExceptionWarning"
)


class Items(Dataset):
    """Numbers; at one of them, something happens in the worker."""

    def __init__(self, at=None, what=None):
        self.at, self.what = at, what

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index == self.at:
            self.what()
        return torch.tensor([index, os.getpid()])


def stack(items):
    return share(torch.stack(items))


def loader(at=None, what=None, count=2):
    options = {"collate_fn": stack, "worker_init_fn": start_worker}
    return DataLoader(Items(at, what), batch_size=2, num_workers=count, **options)


def signalled(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def none_is_left():
    yield
    assert multiprocessing.active_children() == [] and not workers._watched


def no_memory():
    raise MemoryError


def refused():
    raise UserError("source='a: b' is locked; unlock it")


def test_what_a_user_can_mend_is_one_line_from_a_worker_too():
    with pytest.raises(UserError) as raised:
        list(answers(loader(3, refused)))
    assert str(raised.value) == "source='a: b' is locked; unlock it"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            signalled(signal.SIGKILL),
            r"\(pid \d+, one of 2\) was killed \(by hand, or by the system when memory ran out\); ",
        ),
        (signalled(signal.SIGBUS), r"was ended by SIGBUS; shared memory may be full: pass --data\.workers 0, or "),
        (signalled(signal.SIGSEGV), r"was ended by SIGSEGV; pass --data\.workers 0 to see where"),
        (lambda: os._exit(3), r"ended with exit code 3; start again, a run resumes"),
        (lambda: os._exit(0), r"ended with exit code 0; start again"),
        (no_memory, r"one of 2, found no memory; free memory or pass fewer --data\.workers"),
    ],
)
def test_the_death_of_one_is_an_error_in_one_line(what, message):
    begin = time.monotonic()
    with pytest.raises(WorkerDied, match=message) as raised:
        list(answers(loader(21, what)))
    assert "\n" not in str(raised.value) and time.monotonic() - begin < 15


def test_it_ends_work_at_once_where_that_is_permitted_and_else_the_next_one():
    for permitted in (True, False):
        found = answers(loader())
        worker = next(found)[0, 1].item()
        begin = time.monotonic()
        if permitted:
            threading.Timer(0.1, os.kill, (worker, signal.SIGKILL)).start()
            with pytest.raises(WorkerDied), interruptible():
                time.sleep(10)
            assert time.monotonic() - begin < 5
        else:
            os.kill(worker, signal.SIGKILL)
            time.sleep(0.2)
            with pytest.raises(WorkerDied, match=f"pid {worker}, "):
                next(found)
        found.close()


def test_it_is_not_lost_where_python_only_prints_errors():
    class Last:
        def __del__(self):
            os.kill(worker, signal.SIGKILL)
            time.sleep(0.3)

    found = answers(loader())
    worker = next(found)[0, 1].item()
    last = [Last()]
    with pytest.raises(WorkerDied), interruptible():
        time.sleep(10 if last.clear() is None else 0)
    found.close()


def test_outside_the_main_thread_too():
    told = []

    def consume():
        try:
            list(answers(loader(21, signalled(signal.SIGKILL))))
        except WorkerDied as error:
            told.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    thread.join(30)
    assert len(told) == 1


def test_one_that_is_stopped_for_a_while_loses_nothing():
    found = answers(loader())
    first = next(found)
    worker = first[0, 1].item()
    os.kill(worker, signal.SIGSTOP)
    threading.Timer(6.0, os.kill, (worker, signal.SIGCONT)).start()  # longer than the loader waits before it looks
    rest = torch.cat([first, *found])
    assert rest[:, 0].tolist() == list(range(40)) and worker in rest[-4:, 1].tolist()


def test_an_iterator_that_is_closed_waits_for_nobody():
    found = answers(loader())
    os.kill(next(found)[0, 1].item(), signal.SIGSTOP)
    begin = time.monotonic()
    found.close()
    assert time.monotonic() - begin < 15


def test_a_failure_of_the_function_is_raised_as_it_was():
    with pytest.raises(ZeroDivisionError):
        list(answers(loader(21, lambda: 1 / 0)))


@pytest.mark.parametrize("error", [RuntimeError("unable to write to file </torch_1>: No space left on device (28)")])
def test_an_answer_without_room_is_an_error_in_one_line(monkeypatch, error):
    def full(self):
        raise error

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    message = r"data\.workers=2: shared memory is full \(unable .* \(28\)\); pass --data\.workers 0, or give it more"
    with pytest.raises(SharedMemoryFull, match=message):
        list(answers(loader()))
    assert len(list(answers(loader(count=0)))) == 20, "this process shares nothing"


def test_processes_that_cannot_be_started_are_said(monkeypatch):
    def fork(self, context):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.popen_fork.Popen, "__init__", fork)
    with pytest.raises(ValueError, match=r"data\.workers=2 processes cannot be started: Resource temporarily"):
        list(answers(loader()))


def test_shared_memory_that_cannot_suffice_is_refused_before(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "SHARED", tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=16, f_frsize=4096, f_blocks=16))
    check_shared_memory(2, 65536 // 5, held=1)
    check_shared_memory(0, 10**9, held=1)
    message = r"data\.workers=2 needs 64 KiB of shared memory for 5 batches, but .* has 64 KiB free; pass --data"
    with pytest.raises(SharedMemoryFull, match=message):
        check_shared_memory(2, 65536 // 5 + 1, held=1)
    assert [fitting_workers(4, size, held=1) for size in (65536 // 9, 65536 // 5, 65536 // 3, 65536)] == [4, 2, 1, 0]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(SharedMemoryFull, match="for 10 batches"):
        check_shared_memory(2, 65536 // 5, held=1)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=4096, f_blocks=0))
    check_shared_memory(2, 10**9, held=1)  # no limit


@pytest.mark.parametrize("value", ["two", "", "0", "-1"])
def test_a_wrong_number_of_ranks_is_said(monkeypatch, value):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", value)
    with pytest.raises(ValueError, match=f"LOCAL_WORLD_SIZE='{value}' must be a whole number, at least 1; "):
        check_shared_memory(2, 100, held=1)


@pytest.mark.parametrize("fails", [False, True])
def test_processes_of_others_are_left_alone(monkeypatch, fails):
    others = []
    start = workers.Answers._reset

    def reset(self, *arguments, **options):
        others.append(multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)))
        others[0].start()  # as a thread of the program may, while workers are started
        if fails:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        start(self, *arguments, **options)

    monkeypatch.setattr(workers.Answers, "_reset", reset)
    try:
        if fails:
            with pytest.raises(ValueError, match="cannot be started"):
                list(answers(loader()))
        else:
            assert len(list(answers(loader()))) == 20
        assert others[0].is_alive() and multiprocessing.active_children() == others
    finally:
        others[0].kill()
        others[0].join()


def test_a_handler_of_the_program_is_called_and_is_back_afterwards():
    told = []
    before = signal.signal(signal.SIGCHLD, lambda *_: told.append(1))
    mine = signal.getsignal(signal.SIGCHLD)
    try:
        found = answers(loader())
        next(found)
        assert signal.getsignal(signal.SIGCHLD) is workers._told
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        time.sleep(0.1)
        assert told
        found.close()
        now = signal.getsignal(signal.SIGCHLD)
        assert now is mine or now.__module__ == signal_handling.__name__  # torch's, which calls it
        told.clear()
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        time.sleep(0.1)
        assert told
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_after_the_death_of_one_torch_tells_nothing_later():
    found = answers(loader())
    os.kill(next(found)[0, 1].item(), signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(WorkerDied) as raised:
        next(found)
    assert raised.traceback  # which keeps the iterator
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    time.sleep(0.1)


def test_a_connection_that_breaks_in_a_worker_is_not_told_there(capsys, monkeypatch):
    workers._told_elsewhere(ConnectionResetError, ConnectionResetError(), None)
    assert capsys.readouterr().err == ""
    workers._told_elsewhere(KeyError, KeyError("what"), None)
    assert "KeyError: 'what'" in capsys.readouterr().err

    def look():
        os._exit(0 if sys.excepthook is workers._told_elsewhere else 9)

    with pytest.raises(WorkerDied, match="exit code 0"):
        list(answers(loader(5, look)))


def killed(source, row):
    os.kill(os.getpid(), signal.SIGKILL)


def test_those_that_look_at_every_image_are_watched_too():
    with pytest.raises(WorkerDied, match="was killed"):
        list(each(killed, None, range(40), workers=2))
