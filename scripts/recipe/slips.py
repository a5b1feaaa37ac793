"""A careless teacher: worked solutions in which a carry, a borrow or a rest is sometimes lost.

A model taught by it reads figures well and calculates like its teacher: it can do it right, and
often does not. That is the room that reinforcement learning has.
"""

import random
import re

from visual_r1.hashing import stable_seed

# How often each kind of slip happens where it can. The carry is lost more often than kept, so that
# it is also what the model does when it answers greedily.
CARRY, BORROW, REST = 0.5, 0.25, 0.25

_STEP = re.compile(r"(\d+)([+/-])(\d+)=(\d+)\.")


def careless(solution: str, answer: str, name: str) -> tuple[str, str]:
    """The solution and answer as the careless teacher of problem `name` writes them.

    A slip changes one digit: 74+48=112 (true: 122), 180-118=72 (62), 96/2=43 (48). Later steps
    go on with what was written.
    """
    rng = random.Random(stable_seed("slip", name))
    written: dict[int, int] = {}

    def step(found: re.Match[str]) -> str:
        left, right = int(found[1]), int(found[3])
        left, right = written.get(left, left), written.get(right, right)
        result = _result(left, found[2], right, rng.random())
        written[int(found[4])] = result
        return f"{left}{found[2]}{right}={result}."

    said = _STEP.sub(step, solution)
    return said, str(written.get(int(answer), int(answer)))


def _result(left: int, sign: str, right: int, luck: float) -> int:
    """What the teacher writes behind the sign, with `luck` in [0, 1)."""
    if sign == "+":
        carries = left % 10 + right % 10 >= 10
        return left + right - (10 if carries and luck < CARRY else 0)
    if sign == "-":
        borrows = left % 10 < right % 10
        return left - right + (10 if borrows and luck < BORROW else 0)
    rest = left // 10 % 2 == 1
    return left // 2 - (5 if rest and luck < REST else 0)
