"""Which problems a step trains on: a function of the seed and the step number alone.

    epoch e is the permutation of all problems that (seed, e) gives, cut into whole batches;
    step s takes batch s mod (n // B) of epoch s div (n // B).

No state is kept, so a resumed run goes on with the same batches in the same order. The few problems
that do not fill a batch at an epoch's end are others in each epoch, and no batch holds a problem
twice.
"""

import random
from array import array
from functools import lru_cache

from visual_r1.errors import DataError
from visual_r1.hashing import stable_seed


def batch_indices(count: int, batch_size: int, seed: int, step: int, round: int = 0) -> list[int]:
    """The numbers of the `batch_size` problems of `step` in a split of `count`, in order.

    Args:
        count: problems in the training split.
        batch_size: problems a step; may exceed the split, whose problems then come again.
        seed: of the data order.
        step: zero-based.
        round: a further draw for the same step, independent of the first.

    Raises:
        DataError: there are no problems.
    """
    if count < 1:
        raise DataError("there are no training problems to draw a batch from.")
    if round:
        seed = stable_seed("round", seed, round)
    if batch_size <= count:
        epoch, place = divmod(step, count // batch_size)
        start = place * batch_size
        return list(_permutation(count, seed, epoch)[start : start + batch_size])
    # A split smaller than the batch: whole permutations one after another.
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [_permutation(count, seed, at // count)[at % count] for at in positions]


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, epoch: int) -> "array[int]":
    order = array("L", range(count))
    random.Random(stable_seed("epoch", seed, epoch)).shuffle(order)
    return order
