"""A protocol outside the package: does the one nearest training image have the class of a test image?"""

from dataclasses import dataclass

from esvit_fast.evaluation import Card, ImageSettings, Needs, Protocol, nearest, register_protocol, setting


@register_protocol
class NearestClass(Protocol):
    name, description = "toy", "The class of the nearest training image is that of a test image."
    needs = Needs(targets="class")
    columns = (("right", "right %"),)

    @dataclass(frozen=True)
    class Settings(ImageSettings):
        power: float = setting(1.0, "of each feature", above=0)

    def run(self, bench, task, settings):
        images, numbers = task.draw(settings.bank, settings.queries), {}
        for name in bench.networks:
            seen = bench.features(name, images, settings.size)
            bank, queries = (side.features.sign() * side.features.abs() ** settings.power for side in seen)
            index = nearest(bank, queries, 1)[1][:, 0]
            right = (seen[0].labels[index] == seen[1].labels).double().mean().item()
            numbers[name] = [{"right": 100 * right}]
        return bench.result(self.name, images, numbers, {"power": settings.power}, seen, settings.size)

    def card(self, result):
        return Card("Nearest class", "right", "The class of the one nearest training image.", result.chance)
