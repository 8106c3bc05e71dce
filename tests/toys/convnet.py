"""A backbone of one file: a convolution network of two stages."""

from torch import nn

from esvit_fast.models import Backbone, register_backbone


class ToyConvNet(Backbone):
    image_size, num_features = 32, 32

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.GELU())
        self.second = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU())

    def forward(self, images):
        return self.forward_regions(images)[0]

    def forward_regions(self, images):
        regions = self.second(self.first(images)).flatten(2).transpose(1, 2)
        return regions.mean(1), regions

    def region_grid(self, height, width):
        return -(-(height // 4) // 2), -(-(width // 4) // 2)

    def stages(self):
        return [self.first, self.second]


@register_backbone
def toy_convnet():
    return ToyConvNet()
