"""One optimizer step of a method, and the state that a run consists of."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from ...config import Config, to_tree
from ...data import Augmenter, Batch, Fingerprint, changes
from ...errors import UserError
from ...methods import Method, method_of
from ...models import create_model
from ...models.weights import difference_of
from ...nn import share_draws
from ...parallel.precision import settled
from ...parallel.ranks import Ranks, all_reduce_sum, begin_all_reduce_sum
from ...parallel.sharding import divided_like, shard, whole
from ...runs.checkpoint import Checkpoint, CheckpointError
from ..monitoring.profiling import UPDATE
from .compiled import compile_parts
from .graph import StepGraph, check_one_gpu
from .late import Late
from .optimizer import (
    apply_schedule,
    clip_gradients,
    decay,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from .schedules import SchedulePoint, schedule, total_steps

_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class NotFinite(UserError, RuntimeError):
    """Three steps in a row had a loss or gradients that are not finite; the weights are those before them."""


class Work(NamedTuple):
    """What a step leaves on the device: values, norm and features as in `StepResult`; float32 [3]: on how many ranks
    loss or gradients were not finite, on how many the loss, and the loss scale."""

    values: dict[str, Tensor]
    norm: Tensor
    verdict: Tensor
    features: Tensor


def kept_weights(config: Config, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the backbone to keep, among the tensors of `Trainer.state`."""
    prefix = f"method.{method_of(config).kept}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class StepResult(NamedTuple):
    """What a step did.

    Attributes:
        values: the loss and the method's values by name, float32 scalars, means over this rank's micro-batches.
        grad_norm: global norm before clipping.
        taken: bool; False when loss or gradients were not finite and nothing was changed.
        point: the schedules' values.
        features: [B, C], the trained backbone's, of the first view of the last micro-batch.
    """

    values: dict[str, Tensor]
    grad_norm: Tensor
    taken: Tensor
    point: SchedulePoint
    features: Tensor


def build_backbone(config: Config) -> nn.Module:
    """The backbone with the weights that a run of this configuration starts from."""
    torch.manual_seed(config.train.seed)
    model = config.model
    return create_model(model.name, drop_path_rate=model.drop_path_rate, checkpoint_stages=model.checkpoint_stages)


def build_method(config: Config) -> Method:
    """The method as a run of this configuration starts from."""
    return method_of(config).build(config.method, build_backbone(config), begin_all_reduce_sum)


class Trainer:
    """Method, optimizer and step count of a run on one rank.

    Everything random in a step is drawn for the whole batch from a generator seeded by (seed, step); a rank and
    accumulation step takes its images' part. So a resumed run needs no generator state to go on bit for bit, and the
    number of ranks changes nothing but rounding.

    On a GPU no step waits for it: whether a step is taken is decided there, and counted here a step later.

    Args:
        config: of the run; `train.precision: auto` is settled here, for all ranks alike.
        epoch_samples: images of an epoch, a multiple of the batch size.
        ranks: this process among those of the run.
        data: `data.fingerprint` of the images, which a checkpoint must match.

    Attributes:
        lag: how many steps late it is read whether one was taken; 0 on a CPU, where reading waits for nothing.
        skipped: steps that were not taken, as far as `settle` has read.
        skipped_in_a_row: how many of the last ones, but for those that looked for a loss scale.
    """

    def __init__(self, config: Config, epoch_samples: int, ranks: Ranks, data: Fingerprint | str = ""):
        config = settled(config, ranks)
        # not on a CPU, where torch would take those of oneDNN: see ops._cpu.linear
        fast = config.train.matmul == "fast" and ranks.device.type != "cpu"
        torch.set_float32_matmul_precision("medium" if fast else "highest")
        self.config, self.epoch_samples, self.data, self.ranks = config, epoch_samples, data, ranks
        self.total_steps = total_steps(config, epoch_samples)
        self.point = schedule(config, epoch_samples)
        self.step = self.skipped = self.skipped_in_a_row = 0
        self._sharded = config.train.shard and ranks.world_size > 1
        self.lag = 0 if ranks.device.type == "cpu" else 1
        self._verdicts: deque[tuple[int, Late]] = deque()
        self.method = build_method(config).to(ranks.device)
        if ranks.device.type == "cuda" and ranks.world_size > 1:
            self.method = nn.SyncBatchNorm.convert_sync_batchnorm(self.method)
        if config.train.compile:
            for backbone in self.method.backbones():
                if not backbone.stages():
                    raise UserError(
                        f"train.compile=True makes a program of each stage, but model.name={config.model.name!r} has "
                        "none; pass --no-train.compile"
                    )
                compile_parts(backbone.units() if self._sharded else backbone.stages())
        if self._sharded:
            shard(self.method, ranks)
        self.optimizer = make_optimizer(self.method.trained, config.train)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.train.precision == "fp16")
        self.augment = Augmenter(config.data.augment, config.data.crops.sizes, _AUTOCAST[config.train.precision])
        self._positions: dict[tuple[int, int], Tensor] = {}
        self._graph: StepGraph | None = None
        if config.train.cuda_graph:
            check_one_gpu(config.train, ranks)
            self._graph = StepGraph(self._work, self.optimizer, ranks.device, self.method.on_device)
        self._model: nn.Module = self.method

    @property
    def samples(self) -> int:
        """Images seen, over all ranks."""
        return self.step * self.config.train.batch_size

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.samples / self.epoch_samples

    @property
    def teacher(self) -> nn.Module:
        """The backbone to keep; while ranks share it, only `plain_teacher` can be called outside of a step."""
        return self.method.get_submodule(self.method.kept)

    def train_step(self, batches: Sequence[Batch]) -> StepResult:
        """Take one optimiser step on the micro-batches of this rank.

        Raises:
            NotFinite: this step, or on a GPU the one before it, is the third in a row whose loss or gradients are not
                finite.
        """
        point = self.point(self.samples)
        self._prepare(point, accumulated=len(batches) > 1)
        if self._graph is None:
            apply_schedule(self.optimizer, point)
            done = self._work(self._views(batches), len(batches), point.method)
        else:
            done = self._graph(next(self._views(batches)), point)
        self.step += 1
        self._verdicts.append((self.step, Late(done.verdict)))
        self.settle(self.lag)
        return StepResult(done.values, done.norm, done.verdict[0] == 0, point, done.features)

    def _views(self, batches: Sequence[Batch]) -> Iterator[list[Tensor]]:
        """What the networks see of each micro-batch, made when it is asked for, with the generator as it is for it."""
        for i, batch in enumerate(batches):
            crops = self.augment(batch, self.ranks.device)
            self._seed(i, len(batch.index))
            yield crops

    def _work(
        self,
        views: Iterable[list[Tensor]],
        count: int,
        point: Any,
        keep: Tensor | None = None,
    ) -> Work:
        """A step on `count` micro-batches, with the method's point. All that differs from one step to the next and is
        not given as a number is in tensors, so that on a GPU a graph of it can be replayed; that decays weights itself,
        to `keep` of them."""
        self.optimizer.zero_grad(set_to_none=True)
        values: list[dict[str, Tensor]] = []
        for number, crops in enumerate(views, 1):
            last = number == count
            with nullcontext() if last or self._model is self.method else self._model.no_sync():
                with self._autocast():
                    output = self._model(crops, point)
                if last:
                    self.method.reduce()
                self.scaler.scale(output.loss / count).backward()
            values.append({"loss": output.loss.detach().float(), **output.values})
        mean = {name: torch.stack([v[name] for v in values]).mean() for name in values[0]}
        with record_function(UPDATE):
            self.scaler.unscale_(self.optimizer)
            train = self.config.train
            norm = clip_gradients(self.method.trained.parameters(), train.clip_grad, train.clip_by)
            verdict = self._judge(mean["loss"], norm)
            self._update(verdict[0] > 0, point, keep)
            self.scaler.update()
        return Work(mean, norm, verdict, output.features)

    def _judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether this step is to be skipped, whether for its loss, on all ranks, as what is not finite on one of them
        stops it on all; and the loss scale: [3]."""
        broken = ~torch.stack([loss.isfinite() & norm.isfinite(), loss.isfinite()])
        return torch.cat([all_reduce_sum(broken.float()), self.scaler.scale(torch.ones_like(loss))[None]])

    def _update(self, skip: Tensor, point: Any, keep: Tensor | None) -> None:
        """Move weights and what the method moves beside them, or nothing if `skip`, for which a GPU is not waited."""
        if self.lag:
            if keep is not None:
                decay(self.optimizer, torch.where(skip, 1.0, keep))
            self.optimizer.found_inf = skip.float()  # fused AdamW reads it on the device
            self.optimizer.step()
            self.method.after_step(point, skip)
        elif skip:
            self.method.forget()
        else:
            self.optimizer.step()
            self.method.after_step(point)

    def settle(self, lag: int = 0) -> None:
        """Count which steps were taken, but for the last `lag`; waits for the device to come to the others.

        Raises:
            NotFinite: as `train_step`.
        """
        while len(self._verdicts) > lag:
            step, verdict = self._verdicts.popleft()
            broken, broken_loss, scale = verdict.read().tolist()
            if not broken:
                self.skipped_in_a_row = 0
                continue
            self.skipped += 1
            # a loss scale that is still too large is no failure: it halves and the next step tries again
            searching = self.scaler.is_enabled() and not broken_loss and scale > 1
            self.skipped_in_a_row += not searching
            if self.skipped_in_a_row >= 3:
                train = self.config.train
                exact = "" if train.precision == "fp32" else f" or train.precision={train.precision}, to fp32,"
                raise NotFinite(
                    f"loss or gradients were not finite in steps {step - 2} to {step}; lower train.learning_rate="
                    f"{train.learning_rate:g}{exact} as you resume"
                )

    def _autocast(self):
        precision = self.config.train.precision
        return torch.autocast(self.ranks.device.type, _AUTOCAST[precision], enabled=precision != "fp32")

    def _seed(self, accumulation: int, count: int) -> None:
        key = [self.config.train.seed, self.step]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        first = (accumulation * self.ranks.world_size + self.ranks.rank) * count
        if (first, count) not in self._positions:  # kept, as a graph reads them where they are
            self._positions[first, count] = torch.arange(first, first + count, device=self.ranks.device)
        share_draws(self.method.trained, self._positions[first, count], self.config.train.batch_size)

    def _prepare(self, point: SchedulePoint, accumulated: bool) -> None:
        changed = self.method.prepare(point.method) or self._model is self.method
        if changed and self.ranks.world_size > 1 and not self._sharded:
            # DDP notes once which parameters are trained, and a static graph while gradients are reduced
            self._model = DistributedDataParallel(
                self.method, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=not accumulated
            )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a checkpoint holds: tensors, and facts for JSON. All ranks call it; the main rank gets tensors."""
        self.settle()
        tensors = {f"method.{name}": tensor for name, tensor in self.method.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer, self.method.trained.named_parameters())
        tensors = self._on_main_rank(tensors)
        meta = {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "data": self.data,
            "scaler": self.scaler.state_dict(),
            "config": to_tree(self.config),
        }
        return tensors, meta

    def plain_teacher(self) -> nn.Module:
        """The backbone to keep as it was before it was compiled or divided among ranks; all of them ask for it."""
        if not (self._sharded or self.config.train.compile):
            return self.teacher
        with torch.device("meta"):
            plain = create_model(self.config.model.name)
        tensors = {name: whole(tensor) for name, tensor in self.teacher.state_dict().items()}
        plain.load_state_dict(tensors, assign=True)
        return plain.requires_grad_(False)

    def _on_main_rank(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors; those that are divided among ranks one after the other, into the memory of the host."""
        if not self._sharded:
            return tensors
        gathered = ((name, whole(tensor)) for name, tensor in tensors.items())
        return {name: tensor.cpu() for name, tensor in gathered if self.ranks.is_main}

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it is of another architecture or of other data; nothing is changed.
        """
        own, prefix = self.method.state_dict(), "method."
        state = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
        if difference := difference_of(own, state):
            raise CheckpointError(
                f"checkpoint={str(checkpoint.path)!r} is of another architecture than model.name="
                f"{self.config.model.name!r}: {difference}; resume with the configuration that the run began with"
            )
        meta = checkpoint.meta
        if changed := changes(meta["data"], self.data):
            others = ", and if the others are test images now, with a list of all that says train in a column split"
            then, now = (of["images"] if isinstance(of, dict) else 0 for of in (meta["data"], self.data))
            raise CheckpointError(
                f"checkpoint={str(checkpoint.path)!r} saw other images than data.source={self.config.data.source!r} "
                f"has now: {changed}; resume with the data that it began with{others * (then > now)}"
            )
        begun = meta["config"]["train"]["batch_size"]
        if begun != self.config.train.batch_size:
            raise CheckpointError(
                f"checkpoint={str(checkpoint.path)!r} was written with train.batch_size={begun}, which is now "
                f"{self.config.train.batch_size}; its count of steps means other images, resume with {begun}"
            )
        load_optimizer_tensors(self.optimizer, self.method.trained.named_parameters(), checkpoint.tensors)
        self.method.load_state_dict({name: divided_like(state[name], like) for name, like in own.items()})
        if meta["scaler"]:  # else it was of another precision
            self.scaler.load_state_dict(meta["scaler"])
        self.step, self.skipped, self.skipped_in_a_row = meta["step"], meta["skipped"], meta["skipped_in_a_row"]
        self._verdicts.clear()
        if self._graph is not None:
            self._graph.forget()
