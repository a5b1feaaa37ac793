"""What is done to a description before it is paid for, and who is paid or punished by it."""

from dataclasses import dataclass

from trials.honest_scans import HonestScan
from trials.hostile_scans import HostileScan
from visual_r1.data.problem import Problem
from visual_r1.policy.second_pass import MOST_MOVES, SecondPass, moved
from visual_r1.rewards.blindfold.masking import Masks, mask_scan
from visual_r1.rewards.blindfold.stated import numbers_in


@dataclass(frozen=True)
class Measure:
    """What is done to a scan: which masks, whether the group's others count, and whether its
    numbers are moved."""

    name: str
    masks: Masks = "all"
    named: bool = False
    moved: bool = False

    def readings(self, scan: str, problem: Problem, others: str) -> list[str]:
        """What is read: the masked scan, then with its numbers moved; none where it is a leak.

        `others` is what the rest of the group says, who are honest and can read.
        """
        named = numbers_in(others) if self.named else None
        found = mask_scan(scan, problem, [problem.answer], "exact", masks=self.masks, named=named)
        if found.leak:
            return []
        read = [found.text]
        if self.moved:
            second = SecondPass("right", "", found)
            group = [f"<scan>{others}</scan>"] if self.named else None
            for seed in range(MOST_MOVES):
                again = moved(problem, second, seed, group)
                if isinstance(again, SecondPass):
                    return []
                read += [again[1].text] if again else []
        return read


MEASURES = (
    Measure("answers masked", masks="answers"),
    Measure("all masks"),
    Measure("numbers that another names", named=True),
    Measure("numbers moved", moved=True),
    Measure("both: the default", named=True, moved=True),
)

DEFAULT = MEASURES[-1]


def earns(hostile: HostileScan, measure: Measure) -> bool:
    """Whether who knows the way still reads the answer, and is paid: not where it stays each time
    that the numbers are moved."""
    read = measure.readings(hostile.scan, hostile.problem, hostile.others)
    stays = [hostile.is_read_from(text) for text in read]
    return bool(stays) and stays[0] and not (len(stays) > 1 and all(stays))


def is_punished(honest: HonestScan, measure: Measure) -> bool:
    """Whether a number of the figure is lost, or all of it."""
    read = measure.readings(honest.scan, honest.problem, honest.scan)
    return not read or any(number not in read[0] for number in honest.needed)
