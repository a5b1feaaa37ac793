"""Baselines: what the base model answered to the test problems, once for all runs that ask it that.

    .visual-r1/baselines/<digest>/            of one model, dataset, prompt, grading and server
        baseline.json                         what the digest stands for
        <digest>/report.json                  one evaluation: of so many problems and samples, with
        <digest>/predictions.parquet          that seed and temperature

A run has its own `evaluations/baseline/` all the same: its answers are written there, and the
report says in `taken_from` which run asked for them. Here as there `report.json` comes last and
holds the digest of the predictions, so what is half written or damaged is never used. Who finds
another process at it waits, and then need not ask. Nothing else needs the folder: where it is
deleted, the next start of a run puts its own evaluation there, if that says in `shared_as` that all
of it was asked so: a run may have begun on another server, or with another version of torch.
"""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from visual_r1.backend.endpoint import choose_kind, remote_endpoint, without_secrets
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.errors import DataError, StorageError
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.deciding import Conditions, vouched
from visual_r1.evaluation.metrics import REPORT_NAME, Report, read_report, write_report
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, require_predictions
from visual_r1.grading import GRADER_VERSION
from visual_r1.hashing import digest, file_digest
from visual_r1.models import model_path
from visual_r1.opening import read_file
from visual_r1.printing import open_logger
from visual_r1.prompts.templates import load_template
from visual_r1.storage import put_aside, replaced_whole, write_json

logger = open_logger(__name__)

PLACE = "baselines"
RECORD_NAME = "baseline.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Baselines:
    """The evaluations of one base model, on one dataset, asked in one way; they lie in `folder`."""

    folder: Path
    what: Mapping[str, Any]

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset) -> "Baselines":
        """Those that a run of `config` shares with others."""
        what = what_decides(config, dataset, os.environ)
        return cls(config.state_dir / PLACE / digest(what, 16), what)

    def claim(self, evaluation: Path) -> None:
        """Let the report of an evaluation say that all its answers are of these."""
        report = read_report(evaluation)
        if report.shared_as != self.folder.name:
            write_report(evaluation, replace(report, shared_as=self.folder.name))

    def may_claim(self, evaluation: Path) -> bool:
        """Whether an evaluation that is made here, from what is there of it, will be one of these:
        nothing is there, or all of it is of these."""
        try:
            return read_report(evaluation).shared_as == self.folder.name
        except DataError:  # none, or damaged: nothing of it is used
            return True

    def evaluations(self, conditions: Conditions, problems: int) -> Sequence[Path]:
        """The folders of those that are there, first the one under these conditions."""
        exact = self.folder / _name(conditions, problems)
        others = sorted(path.parent for path in self.folder.glob(f"[!.]*/{REPORT_NAME}"))
        return [exact, *(path for path in others if path != exact)]

    def keep(self, evaluation: Path, run: str) -> None:
        """Copy a complete evaluation that `run` has, where there is none like it.

        One that is there and damaged is put aside. Raises `DataError` where the evaluation itself
        is damaged, `StorageError` where the disk refuses it.
        """
        report = read_report(evaluation)
        place = self._place(report)
        if self.has(report):
            return
        if (place / REPORT_NAME).exists():  # else somebody was killed before it was whole
            aside = put_aside(place)
            logger.warning("%s is damaged, and was moved to %s.", place, aside)
        require_predictions(evaluation)
        with replaced_whole(place / PREDICTIONS_NAME) as temporary:
            temporary.write_bytes(read_file(evaluation / PREDICTIONS_NAME))
        if file_digest(place / PREDICTIONS_NAME) != file_digest(evaluation / PREDICTIONS_NAME):
            raise StorageError(
                f"{place / PREDICTIONS_NAME} is not what was copied there: is the disk sound?"
            )
        write_json(self.folder / RECORD_NAME, self.what)
        write_report(place, replace(report, taken_from=report.taken_from or run))

    def has(self, report: Report) -> bool:
        """Whether one under these conditions is there, whole and as it was written."""
        place = self._place(report)
        try:
            there = vouched(read_report(place).conditions, report.conditions)
            return there == report.conditions and require_predictions(place)
        except DataError:
            return False

    def _place(self, report: Report) -> Path:
        count = report.n + report.failed.get("greedy", 0)
        return self.folder / _name(report.conditions, count)

    @contextmanager
    def alone(self, *, wait: bool = True) -> Generator[None]:
        """For the block nobody else asks for these answers, or writes them.

        Who does is waited for; without `wait`, `filelock.Timeout` is raised.
        """
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise
            logger.warning(
                "Another process asks the base model the same (%s): its answers are waited for.",
                self.folder,
            )
            lock.acquire()
        except OSError as error:
            raise StorageError(
                f"could not use {self.folder}, where baselines are kept: "
                f"{error.strerror or error}. Choose another place with --output-dir."
            ) from error
        try:
            yield
        finally:
            lock.release()


def _name(conditions: Conditions, problems: int) -> str:
    # The grader's version, what the template says and how large a picture may be are a part of the
    # digest that names the folder around it. What came later leaves no trace at its default: those
    # that are there keep their names.
    kept = asdict(replace(conditions, grader_version=""))
    del kept["template_digest"], kept["max_pixels"]
    for part, default in (
        ("split", "test"),
        ("control_passes", ()),
        ("reader", ""),
        ("decisions", ""),
    ):
        if kept[part] == default:
            del kept[part]
    return digest([kept, problems], 16)


def what_decides(
    config: RunConfig, dataset: Dataset, environ: Mapping[str, str]
) -> Mapping[str, Any]:
    """What a greedy answer of the base model, and its grade, depend on; JSON-able, no secrets."""
    kind = choose_kind(config, environ)
    server: dict[str, Any] = {"kind": kind}
    if kind == "embedded":
        # Its results depend on both, in the last bits.
        server |= {"threads": config.backend.threads, "torch": version("torch")}
        server["files"] = _files(Path(model_path(config.model.name)))
    elif url := remote_endpoint(config, environ).base_url:
        server["url"] = without_secrets(url)
    second, scans = config.second_pass, None
    if second.enabled:
        scans = second.model_dump(mode="json")
        scans["template"] = _template(second.template)
        scans["question_only_template"] = _template(second.question_only_template)
    model: dict[str, Any] = {"name": config.model.name, "max_pixels": config.model.max_pixels}
    if config.model.thinking != "default":  # those from before the setting keep their digest
        model["thinking"] = config.model.thinking
    return {
        "version": _VERSION,
        "model": model,
        "dataset": dataset.digest,
        "prompt": _template(config.prompt.template),
        "max_new_tokens": config.sampling.max_new_tokens,
        "grading": {"rounding": config.reward.rounding, "version": str(GRADER_VERSION)},
        "second_pass": scans,
        "server": server,
    }


def _template(name: str) -> str:
    """The digest of a template's file, whatever it is called."""
    return file_digest(load_template(name).path)


def _files(folder: Path) -> Sequence[tuple[str, int, int]]:
    """Of a model in a folder: name, size and time of each file; none for one on the hub."""
    found = sorted(path for path in folder.glob("*") if path.is_file())
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found]


def keep_baseline(config: RunConfig, dataset: Dataset, evaluation: Path) -> None:
    """Let others have the evaluation of the base model that a run made, now or before this.

    Not one that may have been asked in part of another server. Where another process is at the
    same, it will have it there itself.
    """
    shared, report = Baselines.of(config, dataset), read_report(evaluation)
    there = report.conditions
    wanted = conditions_of(config, there.sampler_path, dataset.digest, decisions=there.decisions)
    if report.shared_as != shared.folder.name:
        return
    # Of an older grader; or done.
    if vouched(there, wanted) != wanted or shared.has(report):
        return
    with suppress(Timeout), shared.alone(wait=False):
        shared.keep(evaluation, config.run_name)
