"""A source of one file: circles, drawn when they are asked for."""

import numpy as np

from esvit_fast.data import Opened, register_source


class Circles:
    classes = ("small", "large")

    def __init__(self, spec, count):
        self.name, self.count = spec, count

    def __len__(self):
        return self.count

    def image(self, index):
        rows, columns = np.mgrid[:24, :24] - 12
        disc = rows**2 + columns**2 < (4 + 5 * (index % 2)) ** 2
        return np.stack([disc * 255, disc * (index % 200), disc * 9], -1).astype(np.uint8)

    def label(self, index):
        return index % 2

    def path(self, index):
        return f"{self.name} {index}"


@register_source(scheme="circles")
def open_circles(spec, rest, max_megapixels):
    return Opened(spec, {"train": lambda: Circles(spec, int(rest)), "test": lambda: Circles(spec, 20)})
