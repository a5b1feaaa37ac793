"""Answers as they come, so that an evaluation that is killed goes on where it was.

    evaluations/<name>/answers.jsonl      a row an answer, while the evaluation is not complete

A row says which problem it answers and in which pass, what it was asked under (a digest: of the
weights, the problems, the prompt, the grading and the server; of samples also their number, seed
and temperature), the graded answer, and the tokens that it took. It is there as soon as its answer
was graded: a kill loses the answers that were under way and nothing else, a power cut those of the
last `FLUSHED_S` seconds. Rows are chained as those of a run are (`visual_r1.jsonl`): one that is
damaged is not used, and its question is asked again. So is one that was asked under something else.

What a request that was refused said is not kept: it is asked again, and costs nothing.

The report counts what all rows took, whether or not they were used, and then the file goes. While
the report is written it has another name, `answers.counted.jsonl`: beside a report that is a file
which has been counted, and without one a file that has not.
"""

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from visual_r1.evaluation.deciding import DECIDES, Conditions
from visual_r1.evaluation.prediction import PASSES, GradedResponse, Pass, Prediction, Roundings
from visual_r1.evaluation.predictions import REPORT_NAME
from visual_r1.hashing import content_digest, digest
from visual_r1.jsonl import JsonLines
from visual_r1.policy.second_pass import SecondPass
from visual_r1.prices import NO_TOKENS, Tokens
from visual_r1.printing import open_logger

logger = open_logger(__name__)

ANSWERS_NAME = "answers.jsonl"
COUNTED_NAME = "answers.counted.jsonl"
FLUSHED_S = 5.0

_READING: Collection[Pass] = ("question_only", "described", "scan_only")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back to one request, graded.

    `graded` are its answers, one but for the sampled pass; of scan_only there is `second`, what
    came of it, its `roundings`, and `read`, the digest of the response whose scan it read.
    """

    problem: str
    family: str
    name: Pass
    graded: tuple[GradedResponse, ...]
    spent: Tokens
    second: SecondPass | None = None
    read: str = ""
    roundings: Roundings | None = None
    asked: str = ""


_ROW = TypeAdapter(Answer)


def depends_on(name: Pass, conditions: Conditions) -> Mapping[str, object]:
    """The conditions that an answer of this pass depends on."""
    of = {"all"} | ({"sampled"} if name == "sampled" else set[str]())
    if name in _READING:
        of.add("reading")
    return {part: value for part, value in asdict(conditions).items() if DECIDES[part].of in of}


def digest_of(response: str) -> str:
    """What names a response whose scan was read."""
    return content_digest(response.encode("utf-8", "surrogatepass"))[:16]


@dataclass(frozen=True, slots=True)
class Found:
    """What is there of an evaluation that broke off: by the problems' ids, the answers that hold;
    and what all of its answers took, those too that do not."""

    answers: Mapping[str, Mapping[Pass, Answer]]
    spent: Tokens = NO_TOKENS

    def predictions(self) -> Mapping[str, Prediction]:
        """What holds, by the problems' ids."""
        return {id: self._prediction(id, there) for id, there in self.answers.items()}

    def _prediction(self, id: str, there: Mapping[Pass, Answer]) -> Prediction:
        def single(name: Pass) -> GradedResponse | None:
            return there[name].graded[0] if name in there and there[name].graded else None

        greedy, described, unseen = map(single, ("greedy", "described", "question_only"))
        source, second = described or greedy, there.get("scan_only")
        if source is None or (second and second.read != digest_of(source.response)):
            second = None
        return Prediction(
            id=id,
            family=next(iter(there.values())).family,
            greedy=greedy,
            blind=single("blind"),
            sampled=there["sampled"].graded if "sampled" in there else (),
            failures={},
            second=second.second if second else None,
            question_only=unseen.right if unseen else None,
            other_image=single("other_image"),
            masked_image=single("masked_image"),
            described=described,
            question_only_response=unseen.response if unseen else None,
            question_only_roundings=unseen.roundings if unseen else None,
            scan_only_roundings=second.roundings if second else None,
        )


NOTHING_FOUND = Found({})


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers in an evaluation's folder, asked under `conditions`.

    `of` is a digest of what else answers depend on: the server, and the model's files on it. Only
    one process may have them.
    """

    folder: Path
    conditions: Conditions
    of: str = ""

    @property
    def path(self) -> Path:
        """Where they lie."""
        return self.folder / ANSWERS_NAME

    def find(self, ids: Collection[str]) -> Found:
        """What is there of these problems. Rows that do not hold are told of, and left."""
        self._settle()
        found: dict[str, dict[Pass, Answer]] = {}
        spent, damaged, missing, others = NO_TOKENS, 0, False, 0
        wanted, asked = set(ids), self._asked_by_pass()
        for one in JsonLines(self.path, _ROW).each():
            missing = missing or one.gap
            if one.line is None:
                damaged += not one.doubled
                continue
            row = one.line.row
            spent += row.spent
            if row.asked != asked[row.name] or row.problem not in wanted:
                others += 1
                continue
            found.setdefault(row.problem, {}).setdefault(row.name, row)
        if damaged or missing:
            what = f"{damaged} damaged row(s)" if damaged else "rows missing"
            logger.warning("%s has %s: what they answered is asked again.", self.path, what)
        if others:
            logger.warning(
                "%s has %d answers that were asked under something else: they are not used.",
                self.path,
                others,
            )
        return Found(found, spent)

    @contextmanager
    def written(self) -> Generator[Callable[[Answer], None]]:
        """For the block, a function that keeps an answer. Raises `StorageError`.

        The file is made with the first of them.
        """
        asked = self._asked_by_pass()
        add: Callable[[Answer], None] | None = None
        with ExitStack() as opened:

            def keep(answer: Answer) -> None:
                nonlocal add
                if add is None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    add = opened.enter_context(JsonLines(self.path, _ROW).appending(FLUSHED_S))
                add(replace(answer, asked=asked[answer.name]))

            yield keep

    def counted(self) -> None:
        """Say that the report which is written next counts them; there is none now."""
        if self.path.exists():
            self.path.replace(self._counted)

    def clear(self) -> None:
        """Remove those that the report counts, which is there."""
        self._counted.unlink(missing_ok=True)

    @property
    def _counted(self) -> Path:
        return self.folder / COUNTED_NAME

    def _settle(self) -> None:
        """Finish what a kill around the writing of the report left."""
        if (self.folder / REPORT_NAME).exists():
            self.clear()
        elif self._counted.exists():
            self._counted.replace(self.path)

    def _asked_by_pass(self) -> Mapping[Pass, str]:
        # Which gold answers they were graded by, no row says.
        of = [self.of, self.conditions.decisions] if self.conditions.decisions else self.of
        return {name: digest([name, of, depends_on(name, self.conditions)], 16) for name in PASSES}
