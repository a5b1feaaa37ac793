"""Which training data are computed together: groups with the same prompt first of all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from visual_r1.engine.compute.batching import ROWS, chunks, training_bucket
from visual_r1.engine.compute.datums import CheckedDatum
from visual_r1.engine.compute.prompts import Layout
from visual_r1.engine.compute.training_memory import TrainingPlan


@dataclass(frozen=True)
class Unit:
    """Data that share a root: a prompt and its answers, or one datum that is computed whole."""

    root: Layout
    places: int
    """Of the prompt; 0 where the root is the datum itself."""
    members: tuple[int, ...]
    """Indices of the data."""

    def branches(self, data: Sequence[CheckedDatum]) -> list[tuple[int, CheckedDatum]]:
        """What goes on behind the root, by the datum's index."""
        if not self.places:
            return []
        return [(index, data[index].behind(self.places)) for index in self.members]

    def total(self, data: Sequence[CheckedDatum]) -> int:
        """Places of the root and of all branches."""
        lengths = [data[index].layout.length - self.places for index in self.members]
        return self.places + sum(lengths)


def minibatches(data: Sequence[CheckedDatum], plan: TrainingPlan) -> Iterator[Sequence[Unit]]:
    """All data in minibatches, units that are computed side by side, of at most so many places as
    the plan says, if not for one datum.

    Roots of one padded length are neighbours, in the order of first appearance.
    """
    units = [part for unit in _units(data) for part in _taken_apart(unit, data, plan.group)]
    units.sort(key=lambda unit: training_bucket(unit.root.length))
    chosen: list[Unit] = []
    taken = 0
    for unit in units:
        more = unit.total(data)
        if chosen and taken + more > plan.places:
            yield chosen
            chosen, taken = [], 0
        chosen.append(unit)
        taken += more
    if chosen:
        yield chosen


def prompt_places(datum: CheckedDatum) -> int:
    """How many places of the datum are computed as its prompt; 0 leaves it whole."""
    # At least one place is left to the answer. A prompt of a few words is not worth it, and an
    # image behind the cut leaves the datum whole.
    places = min(datum.masked_prefix, datum.layout.length - 1)
    return 0 if places < ROWS or datum.layout.is_image[places:].any() else places


def _units(data: Sequence[CheckedDatum]) -> list[Unit]:
    """Data by their prompts, in the order of first appearance."""
    shared: dict[tuple[bytes, bytes, tuple[bytes, ...]], list[int]] = {}
    found: list[tuple[Layout, int, list[int]]] = []
    for index, datum in enumerate(data):
        places = prompt_places(datum)
        if not places:
            found.append((datum.layout, 0, [index]))
            continue
        prompt = datum.layout.up_to(places)
        images = tuple(image.digest for image in prompt.images)
        key = (prompt.tokens.tobytes(), prompt.is_image.tobytes(), images)
        if key not in shared:
            shared[key] = []
            found.append((prompt, places, shared[key]))
        shared[key].append(index)
    return [Unit(root, places, tuple(members)) for root, places, members in found]


def _taken_apart(unit: Unit, data: Sequence[CheckedDatum], most: int) -> Iterator[Unit]:
    """The unit, in parts with a root each where it has more places than a minibatch may."""
    if unit.total(data) <= most:
        yield unit
        return
    longest = max(data[index].layout.length for index in unit.members) - unit.places
    for members in chunks(unit.members, (most - unit.places) // max(1, longest)):
        yield Unit(unit.root, unit.places, tuple(members))
