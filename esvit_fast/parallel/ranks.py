"""Ranks and devices: what torchrun says, or one plain process."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..config import Config, ConfigError, TrainConfig
from ..errors import UserError
from ..methods import method_of
from .launcher import end_with_launcher
from .meeting import Place, join, meet, place

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits in a collective operation for another one, which may be measuring."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def setup_distributed(device: str = "auto") -> Ranks:
    """Join the processes that torchrun started, or be one plain process without a group.

    Tensors of GPUs are reduced by NCCL, those of the CPU, on which ranks agree without waiting for a GPU, by gloo.

    `device` is "auto" (a GPU if there is one), "cpu", "cuda" (under torchrun the GPU of the local rank), or, in a plain
    process, "cuda:N".

    Raises:
        UserError: the device is unknown, is not there, or cannot be shared by this machine's processes; or the ranks
            did not meet.
    """
    end_with_launcher()
    here = place()
    if here is None:
        return Ranks(0, 1, pick_device(device))
    picked = pick_device(device, here.local_rank, shared=True)
    try:
        store = meet(here)
        if picked.type == "cuda":
            torch.cuda.set_device(picked)
            _join("cpu:gloo,cuda:nccl", store, here, device_id=picked)
        else:
            _join("gloo", store, here)
    except dist.DistError as error:
        raise UserError(_no_meeting(here, error)) from None
    return Ranks(here.rank, here.world_size, picked)


def _join(backend: str, store: dist.Store, here: Place, **options: Any) -> None:
    """Make the group of all ranks of this start."""

    def make() -> None:
        if "device_id" in options:
            torch.cuda.set_device(options["device_id"])  # each thread has its own
        dist.init_process_group(
            backend, store=store, rank=here.rank, world_size=here.world_size, timeout=TIMEOUT, **options
        )

    join(make, here)


def _no_meeting(here: Place, error: Exception) -> str:
    """Why the ranks could not meet."""
    if "EADDRINUSE" in str(error):
        return f"{here}: the port is in use; set MASTER_PORT to a free one, or start with torchrun --standalone"
    reason = str(error).splitlines()[0].split(". ")[0]
    return f"{here}: the ranks could not meet there: {reason}; check that rank 0 runs on that machine"


def accumulation_steps(train: TrainConfig, world_size: int) -> int:
    """Accumulation steps on a number of ranks: as given, or the fewest that keep to train.micro_batch_size.

    Raises:
        ConfigError: ranks and accumulation steps do not divide the batch; with the nearest numbers that do.
    """
    batch, steps = train.batch_size, train.accumulation_steps
    share, rest = divmod(batch, world_size)
    if train.micro_batch_size and not rest:
        return next(n for n in _divisors(share) if share // n <= train.micro_batch_size)
    if not rest and share % steps == 0:
        return steps
    ways = [f"start {_near(batch // steps, world_size)} ranks"]
    if not rest:
        ways.append(f"pass --train.accumulation-steps {_near(share, steps)}")
    pieces = world_size * steps
    sizes = sorted({max(1, batch // pieces) * pieces, (batch // pieces + 1) * pieces})
    ways.append(f"pass --train.batch-size {' or '.join(map(str, sizes))}")
    raise ConfigError(
        f"train.batch_size={batch} is not divisible by world_size={world_size} x accumulation_steps={steps}; "
        f"{', or '.join(ways)}"
    )


def micro_batch(config: Config, world_size: int) -> int:
    """Images of a forward pass of one rank.

    Raises:
        ConfigError: as `accumulation_steps`, or they are fewer than `least_images`.
    """
    train, steps = config.train, accumulation_steps(config.train, world_size)
    share = train.batch_size // world_size
    images = share // steps
    least, asked, cure = method_of(config).min_images(config.method)
    if images < least:
        given = train.micro_batch_size and share > 1
        size = f"train.micro_batch_size={train.micro_batch_size}" if given else f"train.accumulation_steps={steps}"
        raise ConfigError(
            f"{asked} needs {least} images at a time, but train.batch_size={train.batch_size} leaves {images} with "
            f"{size} on {world_size} ranks; raise the {'micro-batch' if given else 'batch'} size or {cure}"
        )
    return images


def least_images(config: Config) -> int:
    """Of a micro-batch, as the method asks."""
    return method_of(config).min_images(config.method)[0]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _near(number: int, wanted: int) -> str:
    """The divisors of a number that are next to one that does not divide it."""
    divisors = _divisors(number)
    below, above = [n for n in divisors if n < wanted], [n for n in divisors if n > wanted]
    return " or ".join(map(str, below[-1:] + above[:1]))


def pick_device(name: str, local_rank: int = 0, *, shared: bool = False) -> torch.device:
    """The device of a name as in `setup_distributed`, for a process that shares the machine or not.

    Raises:
        UserError: as `setup_distributed`.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise UserError(f"device={name!r} must be auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"device={name!r} needs an NVIDIA GPU and a CUDA build of torch (this is {torch.__version__}); pass cpu"
        )
    if shared and index:
        raise UserError(f"device={name!r} names one GPU for several processes; pass cuda")
    number = int(index) if index else local_rank
    count = torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"device={f'cuda:{number}'!r} is not there, this machine has {count} GPUs; lower --nproc-per-node or N"
        )
    return torch.device("cuda", number)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place, and return it; one process returns it as it is."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def begin_all_reduce_sum(tensor: Tensor) -> dist.Work | None:
    """Begin to sum a tensor over all ranks, in place; what is returned is to be waited for, None with one process."""
    return dist.all_reduce(tensor, async_op=True) if dist.is_initialized() else None


def gather(items: list[Any]) -> list[Any]:
    """The items of all ranks, in the order of ranks; cheap while no rank has any."""
    if not dist.is_initialized() or not all_reduce_sum(torch.tensor(len(items))):
        return items
    lists: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def is_loss_of_a_rank(error: BaseException) -> bool:
    """Whether an error is that of a collective operation which another rank left by ending, or did not answer."""
    return isinstance(error, dist.DistBackendError) or "/gloo/transport/" in str(error)


def loss_of_a_rank(error: BaseException) -> str:
    """What to say of such an error."""
    if "Timed out" in str(error):
        return f"another rank has not answered for {TIMEOUT.seconds // 60} minutes, and so this one ends; see why there"
    return "another rank has ended, and so this one does; why is said above, or by what started them"


def is_first_to_say(message: str, after_all: bool = False) -> bool:
    """Whether no other rank that torchrun has started with this one has asked this about the same message; or
    `after_all`, about any, as one that only says that another has ended adds nothing to why."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    digest, restart = hashlib.sha256(message.encode()).hexdigest(), os.environ.get("TORCHELASTIC_RESTART_COUNT")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        said, same = (store.add(f"esvit_fast/{restart}/{key}", 1) for key in ("any", digest))
        return (said if after_all else same) == 1
    except dist.DistError:
        return True


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def teardown_distributed() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
