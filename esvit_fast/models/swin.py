"""Swin transformers as EsViT uses them: multi-stage, windowed, any input size (arXiv 2103.14030, 2106.09785)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from ..nn import Linear, PatchEmbed, PatchMerging, SwinBlock
from ..nn.not_scripted import NotScripted
from ..ops._core.plan import exported
from .backbone import Backbone
from .registry import register_backbone


class Stage(NotScripted, nn.Module):
    """Blocks of one width, and the merging of patches that ends all stages but the last.

    Args:
        again: keep nothing but the blocks' inputs for the backward pass, which computes them again.
    """

    def __init__(self, blocks: list[SwinBlock], downsample: PatchMerging | None, again: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample, self.again = downsample, again

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H / 2, W / 2, 2 C], rounded up; in the last stage [B, H, W, C]."""
        x = deque(self.walk(x), maxlen=1).pop()
        return x if self.downsample is None else self.downsample(x)

    def walk(self, x: Tensor) -> Iterator[Tensor]:
        """The maps after every block."""
        again = self.again and torch.is_grad_enabled() and not (exported() or isinstance(x, torch.fx.Proxy))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
            yield x


class SwinTransformer(NotScripted, Backbone):
    """A Swin transformer; its state-dict names are those of the published EsViT code.

    It can be traced by torch.fx, torch.jit.trace and torch.export, the last two into plain torch, and not be scripted.

    Args:
        image_size: native side in pixels. It sets each stage's window: a stage whose native map is no larger than the
            window has one unshifted window of the map's size. Any other input size works as well.
        patch_size: side of a patch in pixels.
        dim: channels of the first stage; every stage doubles them.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        window_size: side of a window in tokens.
        num_classes: outputs of a linear classifier; 0: none.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 in the first.
        in_channels: of the images.
        init_std: standard deviation of the initial weights of linear layers; None: fan_in ** -0.5, with which narrow
            networks start much faster than with Swin's 0.02.
        checkpoint_stages: stages, from 0, whose blocks keep nothing but their input for the backward pass, which
            computes them again: the same gradients, bit for bit, in less memory and more time.

    Raises:
        UserError: a stage to be checkpointed does not exist.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 4,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        num_classes: int = 0,
        drop_path_rate: float = 0.0,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        init_std: float | None = 0.02,
        checkpoint_stages: Sequence[int] = (),
    ):
        super().__init__()
        if not set(checkpoint_stages) <= set(range(len(depths))):
            raise UserError(
                f"checkpoint_stages={tuple(checkpoint_stages)} must name stages between 0 and {len(depths) - 1}"
            )
        self.image_size, self.patch_size = image_size, patch_size
        self.num_features = dim * 2 ** (len(depths) - 1)
        self.patch_embed = PatchEmbed(patch_size, in_channels, dim)
        self.layers = nn.ModuleList()
        rates = (drop_path_rate * i / max(1, sum(depths) - 1) for i in range(sum(depths)))
        for stage, depth in enumerate(depths):
            width, side = dim * 2**stage, -(-image_size // (patch_size * 2**stage))
            window = min(window_size, side)
            shift = window // 2 if side > window_size else 0
            blocks = [
                SwinBlock(width, num_heads[stage], window, shift * (i % 2), mlp_ratio, qkv_bias, next(rates))
                for i in range(depth)
            ]
            merging = PatchMerging(width) if stage < len(depths) - 1 else None
            self.layers.append(Stage(blocks, merging, stage in checkpoint_stages))
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        self.head = Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=init_std or module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, height, width] -> pooled features [B, num_features], or logits [B, num_classes]."""
        return self.head(self.forward_features(images).mean((1, 2)))

    def forward_features(self, images: Tensor) -> Tensor:
        """[B, 3, height, width] -> map after the final norm, [B, H, W, num_features]."""
        x = self.patch_embed(images)
        for stage in self.layers:
            x = stage(x)
        return self.norm(x)

    def forward_regions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, height, width] -> the view's feature [B, C], and those of its regions [B, N, C], row by row."""
        regions = self.forward_features(images).flatten(1, 2)
        return regions.mean(1), regions

    def region_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the last stage's map; every merging rounds them up."""
        side = self.patch_size * 2 ** (len(self.layers) - 1)
        return -(-height // side), -(-width // side)

    def stages(self) -> Sequence[nn.Module]:
        """Blocks of one width with the merging that follows them."""
        return self.layers

    def units(self) -> Sequence[nn.Module]:
        """The blocks, and what merges patches between them."""
        parts = (part for stage in self.layers for part in (*stage.blocks, stage.downsample))
        return [part for part in parts if part is not None]

    def depths(self) -> Sequence[int]:
        """Blocks of each stage."""
        return [len(stage.blocks) for stage in self.layers]

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps at the end of stages, by timm's convention.

        Args:
            indices: stages wanted, negative ones from the end; a number n: the last n; None: all.
            norm: apply the final norm to the last stage's map.
            stop_early: do not run the stages after the last one wanted.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return only the list.

        Returns:
            The final map [B, H, W, C] and the list of maps, or the list alone.

        Raises:
            ValueError: a stage or a format does not exist.
        """
        stages = len(self.layers)
        wanted = (
            range(stages)
            if indices is None
            else range(stages - indices, stages)
            if isinstance(indices, int)
            else indices
        )
        if not all(-stages <= i < stages for i in wanted):
            raise ValueError(f"indices={indices} must name stages between {-stages} and {stages - 1}")
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt={output_fmt!r} must be NCHW or NHWC")
        wanted = [i % stages for i in wanted]
        maps = {}
        for stage, block, x in self._walk(images):
            if block < len(self.layers[stage].blocks) - 1:
                continue
            maps[stage] = self.norm(x) if norm and stage == stages - 1 else x
            if stop_early and stage == max(wanted):
                break
        intermediates = [maps[i] if output_fmt == "NHWC" else maps[i].permute(0, 3, 1, 2).contiguous() for i in wanted]
        if intermediates_only:
            return intermediates
        return self.norm(x) if stage == stages - 1 else x, intermediates

    def forward_last_blocks(self, images: Tensor, blocks: int) -> list[Tensor]:
        """Average-pooled tokens of the last `blocks` blocks, the first of them first: [B, channels of its stage] each.

        The final norm is applied to those of the last stage, as in the published linear evaluation.

        Raises:
            UserError: there are not so many blocks.
        """
        self.check_blocks(blocks)
        last = len(self.layers) - 1
        pooled = [(self.norm(x) if stage == last else x).mean((1, 2)) for stage, _, x in self._walk(images)]
        return pooled[-blocks:]

    def attention_maps(self, images: Tensor) -> Tensor:
        """Attention that every token of the last block receives, averaged over its window: float32 [B, heads, H, W]."""
        block = self.layers[-1].blocks[-1]
        inputs = []
        hook = block.attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        try:
            deque(self._walk(images), maxlen=0)
        finally:
            hook.remove()
        return block.attn.received(inputs[0])

    def _walk(self, images: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Run the network, yielding (stage, block, map [B, H, W, C]) after every block."""
        x = self.patch_embed(images)
        for s, stage in enumerate(self.layers):
            for b, after in enumerate(stage.walk(x)):
                x = after
                yield s, b, x
            if stage.downsample is not None:
                x = stage.downsample(x)


_SIZES = {
    "tiny": {"dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}
_NANO = {"image_size": 32, "patch_size": 2, "dim": 48, "depths": (2, 4, 2), "num_heads": (3, 6, 12), "window_size": 4}
MODELS = {
    "swin_nano_w4": {**_NANO, "init_std": None},
    **{f"swin_{size}_w{window}": {**_SIZES[size], "window_size": window} for window in (7, 14) for size in _SIZES},
}
del MODELS["swin_large_w14"]  # which nobody has published
for _name, _shape in MODELS.items():
    register_backbone(partial(SwinTransformer, **_shape), name=_name)
