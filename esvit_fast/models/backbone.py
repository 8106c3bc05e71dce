"""What every backbone is: all that other rooms know of one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import UserError

REQUIRED = ("num_features", "image_size", "forward", "forward_regions", "region_grid")
"""What a backbone must have; the rest of `Backbone` has defaults."""


class Backbone(nn.Module):
    """A network from images to features, of the whole view and of its regions.

    Attributes:
        num_features: channels C of its features.
        image_size: side in pixels of the images that it is made for; others work as well, unless it says so.
    """

    num_features: int
    image_size: int

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, height, width] -> the view's feature [B, num_features], or logits of a classifier."""
        raise NotImplementedError

    def forward_regions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, height, width] -> the view's feature [B, C], and those of its N regions [B, N, C], row by row."""
        raise NotImplementedError

    def region_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the regions of images of so many pixels; their product is N of `forward_regions`."""
        raise NotImplementedError

    def stages(self) -> Sequence[nn.Module]:
        """Parts that run one after the other: torch.compile makes a program of each, and `checkpoint_stages` names
        those that keep nothing for the backward pass. None by default, and then there is neither."""
        return ()

    def units(self) -> Sequence[nn.Module]:
        """The parts that ranks gather, one after the other, where weights are divided among them: blocks, most often.
        The stages by default; what is in no unit is gathered once a step."""
        return self.stages()

    def depths(self) -> Sequence[int]:
        """Blocks of each stage, which `forward_last_blocks` counts from the end; none by default."""
        return ()

    def forward_last_blocks(self, images: Tensor, blocks: int) -> list[Tensor]:
        """Average-pooled tokens of the last `blocks` blocks, the first of them first: [B, channels] each.

        Raises:
            UserError: there are not so many blocks.
        """
        self.check_blocks(blocks)
        raise NotImplementedError

    def check_blocks(self, blocks: int) -> None:
        """Raise ValueError unless there are so many blocks, and one at least is asked for."""
        total = sum(self.depths())
        if not total:
            raise UserError(f"blocks={blocks}, but {type(self).__name__} has no blocks whose maps it gives; pass 0")
        if not 1 <= blocks <= total:
            raise UserError(f"blocks={blocks} must lie between 1 and {total}, the number of blocks")

    def attention_maps(self, images: Tensor) -> Tensor | None:
        """Attention that every region of the last block receives, float32 [B, heads, rows, columns]; None by default,
        as not every backbone has any."""
        return None
