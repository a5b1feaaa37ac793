"""Rows that cannot be asked about at the run's settings: found before the first request.

Every row of the dataset is looked at when a run begins (`prompts.fit`). Those of `train` that do
not fit are left out of training; `left_out.json` names them, and holds for the whole run, so that
the batches of a resumed one are the same. Those of `test` and `validation` stay: a figure over the
problems that happen to fit would not be the one that it is taken for. Their requests are refused
and counted as failed, and where they are too many for a fair figure the run is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.data.problem import SPLITS, Split
from visual_r1.errors import DataError
from visual_r1.evaluation.predict import MOST_REFUSED
from visual_r1.policy.policy import cut_thoughts, open_policy
from visual_r1.printing import open_logger
from visual_r1.progress import Progress
from visual_r1.prompts.fit import SplitFit, UnfitRow, fit_of
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.run import Run
from visual_r1.runs.training_rows import LEFT_OUT_FILE, LeftOut, LeftOutRow
from visual_r1.runs.validate import chosen_problems
from visual_r1.sft.responses import Responses, Tally
from visual_r1.storage import write_json

logger = open_logger(__name__)

ADVICE = "lower --model.max_pixels or --sampling.max_new_tokens, or mend the rows"
# How many rows a message names; the file names them all.
_NAMED = 3


def is_settled(config: RunConfig) -> bool:
    """Whether the rows of a run were looked at; one that began before that goes on with all."""
    run_dir = config.run_dir
    return (run_dir / LEFT_OUT_FILE).exists() or bool(Ledger(run_dir).rows())


def settle_rows(run: Run, splits: Sequence[Split]) -> None:
    """Look at every row of `splits`, once a run; name those that do not fit, and leave them out.

    Raises:
        DataError: no row of train fits, or too few of those that an evaluation asks about.
        ConfigError: the server does not train the model; better known before it is evaluated.
    """
    if is_settled(run.config):
        return
    trains = "train" in splits
    context = _context(run, trains=trains)
    if trains and (said := cut_thoughts(run.config, thinks=run.policy().prompter.opens_think)):
        logger.warning("%s; see --sampling.max_new_tokens and --model.thinking.", said)
    path = run.config.run_dir / LEFT_OUT_FILE
    found = dict(fits_of(run.config, run.dataset, context, run.progress, splits))
    if run.config.sft.responses is not None and "train" in splits:
        found["train"] = _with_responses(run, found["train"])
    for split, fit in found.items():
        unfit = asked_and_unfit(run.config, split, fit)
        says = f"{len(unfit)} of {fit.rows} rows of {split} in {run.dataset.folder} cannot be "
        learns = split == "train" and run.config.sft.responses is not None
        says += f"{'learnt from' if learns else 'asked about'}: {named(unfit)}"
        if too_many(run.config, split, fit):
            bears = (
                "none is left"
                if split == "train"
                else f"more than {MOST_REFUSED:.0%} of those that its evaluation asks about"
            )
            raise DataError(f"{says}, {bears}; {ADVICE}.")
        if unfit and split == "train":
            logger.warning("%s; they are left out, and %s names each.", says, path)
        elif unfit:
            logger.warning("%s; they stay in its evaluation and count there as failed.", says)
    if "train" in splits:
        fit = found["train"]
        rows = tuple(LeftOutRow(place=one.place, id=one.id, why=one.why) for one in fit.unfit)
        left = LeftOut(
            dataset_digest=run.dataset.digest,
            context=context,
            rows=fit.rows,
            left_out=rows,
            in_tags=_in_tags(run.config),
        )
        write_json(path, left.model_dump(mode="json"))


def require_askable(run: Run, split: Split) -> None:
    """Look at the rows of a split that an evaluation asks about, and that its run does not.

    Names those that do not fit, which count there as failed; raises `DataError` where they are too
    many. The run's own record is left alone.
    """
    context = _context(run, trains=False)
    fit = fits_of(run.config, run.dataset, context, run.progress, [split])[split]
    count = run.config.evaluation.count(fit.rows)
    unfit = [one for one in fit.unfit if one.place < count]
    says = f"{len(unfit)} of {count} rows of {split} in {run.dataset.folder} cannot be asked about"
    if len(unfit) > MOST_REFUSED * count:
        raise DataError(
            f"{says}: {named(unfit)}, more than {MOST_REFUSED:.0%} of those that its evaluation "
            f"asks about; {ADVICE}."
        )
    if unfit:
        logger.warning("%s: %s; they count there as failed.", says, named(unfit))


def _context(run: Run, *, trains: bool) -> int | None:
    """How many tokens the context of the run's model holds; None where the server does not say.

    Raises `ConfigError` where the server does not offer the model, or train it where that is asked.
    """
    backend = run.backend

    def once() -> int | None:
        if trains:
            backend.require_model(trains=True)
        return backend.context_length()

    return backend.recoveries.run(once, "the look at the rows")


def _in_tags(config: RunConfig) -> bool:
    return config.sft.responses is not None and not config.sft.any_form


def _with_responses(run: Run, fit: SplitFit) -> SplitFit:
    """The fit of the training split, in which a row that has nothing to learn is none either.

    Says what is learnt without the template's form or the gold answer. Raises `DataError` where
    nothing can be learnt of rows that fit, and where no response has that form, unless
    `sft.any_form`.
    """
    column = run.config.sft.responses
    assert column is not None
    responses = Responses(open_policy(run.config), column, in_tags=_in_tags(run.config))
    unfit = {one.place: one for one in fit.unfit}
    faults: list[UnfitRow] = []
    tally = Tally()
    for place, problem in enumerate(run.dataset.problems("train").without_figures()):
        if place in unfit:
            continue
        look = responses.look(problem)
        if look.fault:
            faults.append(UnfitRow("train", place, problem.id, look.fault))
        else:
            tally.add(problem.id, look)
    if faults and not tally.count:
        raise DataError(
            f"no row of train in {run.dataset.folder} can be learnt from: {named(faults)}; mend "
            "the responses, or name another column with --sft.responses."
        )
    says = tally.in_words(responses.form)
    if tally.count and tally.unformed == tally.count and not run.config.sft.any_form:
        raise DataError(
            f"sft.responses {column}: {says}; a policy that learns them unlearns that form. Write "
            "its tags into the responses, choose the --prompt.template that asks for theirs, or "
            "learn them as they stand with --sft.any_form."
        )
    if says:
        logger.warning("sft.responses %s: %s; they are learnt as they stand.", column, says)
    unfit |= {one.place: one for one in faults}
    return replace(fit, unfit=tuple(unfit[place] for place in sorted(unfit)))


def fits_of(
    config: RunConfig,
    dataset: Dataset,
    context: int | None,
    progress: Progress | None = None,
    splits: Sequence[Split] = SPLITS,
) -> Mapping[Split, SplitFit]:
    """What fits of each split. Raises `DataError` where the dataset is damaged."""
    sizes = dataset.sizes(progress)
    prompter = open_policy(config).prompter
    most = config.sampling.max_new_tokens
    return {
        split: fit_of(dataset, split, sizes[split], prompter, most, context) for split in splits
    }


def asked_and_unfit(config: RunConfig, split: Split, fit: SplitFit) -> Sequence[UnfitRow]:
    """The rows of a split that do not fit and that the run would ask about."""
    asked = _asked(config, split, fit.rows)
    return [one for one in fit.unfit if one.place in asked]


def too_many(config: RunConfig, split: Split, fit: SplitFit) -> bool:
    """Whether those are so many that the run is refused: all of train, or of an evaluation more
    than a fair figure bears."""
    unfit, asked = len(asked_and_unfit(config, split, fit)), len(_asked(config, split, fit.rows))
    return bool(unfit) and (unfit == asked if split == "train" else unfit > MOST_REFUSED * asked)


def _asked(config: RunConfig, split: Split, rows: int) -> Sequence[int] | set[int]:
    match split:
        case "train":
            return range(rows)
        case "test":
            return range(config.evaluation.count(rows))
        case "validation":
            return set(chosen_problems(config, rows)) if config.validation.every else set()


def named(unfit: Sequence[UnfitRow]) -> str:
    """The first rows that do not fit, for a message."""
    first = "; ".join(f"{one.id!r}: {one.why}" for one in unfit[:_NAMED])
    more = len(unfit) - _NAMED
    return f"{first}; and {more} more" if more > 0 else first
