"""Asks a run's server for the log-probabilities of one response, in a process of its own.

`python -m visual_r1.pages.scoring RUN WANTED FILE` writes `Scored` to FILE and ends with 0, or
prints why not and ends with 1. The pages start it, so that they need neither the SDK nor torch; an
embedded engine is started for it and ends with it. It ends when its standard input closes, as when
the pages end.

    log-probability   log p(token | prompt, what stands before it) by the weights that wrote it
    ratio             p_newer(token) / p_older(token): learner against sampler
    picture           log p(token | picture) - log p(token | picture hidden)
"""

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import tinker

from visual_r1.backend.backend import Backend, open_backend
from visual_r1.backend.waiting import SAMPLE_LIMIT_S, wait
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, find_prepared, open_dataset
from visual_r1.data.problem import Problem, Split
from visual_r1.errors import BackendError, DataError, RunError, VisualR1Error
from visual_r1.models.processor import Processor
from visual_r1.pages.scored import HIDDEN, Scored, Token, Wanted, keep_scored, read_wanted
from visual_r1.pages.servers import require_named, weights_of
from visual_r1.policy.policy import open_policy
from visual_r1.printing import say
from visual_r1.prompts.prompts import MASKED_SHARE, ImageMode
from visual_r1.rl.kl import ask_logprobs, logprobs_of
from visual_r1.runs.folder import config_of_run
from visual_r1.runs.ledger import Ledger

HIDDEN_SAYS = f"{MASKED_SHARE:.0%} of its patches black"


def main(arguments: Sequence[str]) -> int:
    """Score the response that the arguments name; the exit status."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_dir, wanted, into = Path(arguments[0]), read_wanted(arguments[1]), Path(arguments[2])
    try:
        keep_scored(into, score(run_dir, wanted))
    except VisualR1Error as error:
        say(str(error), sys.stderr)
        return 1
    return 0


def _end_with_parent() -> None:
    # Not by `sys.stdin`, whose lock this thread would still hold when the program ends.
    while os.read(0, 4096):
        pass
    os._exit(2)


def score(run_dir: Path, wanted: Wanted) -> Scored:
    """Ask for it; raises what says why not."""
    server = require_named(run_dir, os.environ)
    config = config_of_run(run_dir)
    if server == "embedded":  # whatever key the environment has
        backend = config.backend.model_copy(update={"server": "embedded"})
        config = config.model_copy(update={"backend": backend})
    wrote, other, newer = weights_of(run_dir, wanted)
    problem = _problem(config, run_dir, wanted)
    with open_backend(config) as backend, backend.session():
        policy = open_policy(config, backend.check)
        tokens, texts = tokens_of(policy.processor, wanted)
        prompts: dict[ImageMode, tinker.ModelInput] = {
            mode: policy.prompter.model_input(problem, image=mode) for mode in ("full", HIDDEN)
        }
        asked: list[tuple[str | None, ImageMode]] = [(wrote.path, "full"), (wrote.path, HIDDEN)]
        if other is not None:
            asked.append((other.path, "full"))
        found = _logprobs(backend, asked, prompts, tokens)
    columns = [found[0], found[1], found[2] if other is not None else [None] * len(tokens)]
    length = prompts["full"].length
    return Scored(
        wanted=wanted,
        wrote=wrote,
        other=other,
        newer=newer,
        hidden=HIDDEN_SAYS,
        tokens=tuple(
            Token(text, seen or 0.0, against, unseen)
            for text, seen, unseen, against in zip(texts, *columns, strict=True)
        ),
        prompt_tokens=length,
        asked_tokens=len(asked) * (length + len(tokens) + 1),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _logprobs(
    backend: Backend,
    asked: Sequence[tuple[str | None, ImageMode]],
    prompts: Mapping[ImageMode, tinker.ModelInput],
    tokens: Sequence[int],
) -> list[list[float]]:
    """Those of each question, all under way at once; a token has one in each."""
    samplers = {path: backend.sampler(path) for path in dict.fromkeys(path for path, _ in asked)}
    futures = [ask_logprobs(samplers[path], prompts[mode], tokens) for path, mode in asked]
    found: list[list[float]] = []
    for future in futures:
        reply = wait(future, "log-probabilities of a response", SAMPLE_LIMIT_S, backend.check)
        if (values := logprobs_of(reply, len(tokens))) is None:
            raise BackendError(
                f"The server did not return a log-probability of each of {len(tokens)} tokens: "
                "it does not score prompts, so no token can be coloured there."
            )
        found.append(values)
    return found


def tokens_of(processor: Processor, wanted: Wanted) -> tuple[list[int], list[str]]:
    """The tokens of a response, its stop token among them, and which characters each stands for.

    A character that takes several tokens stands at the last of them. Raises `RunError` where there
    is none.
    """
    tokens = processor.encode(wanted.text)
    texts, begin = list[str](), 0
    for end in range(1, len(tokens) + 1):
        piece = processor.decode(tokens[begin:end])
        # A character that is not whole yet is decoded as one that is not known.
        if piece.endswith("\N{REPLACEMENT CHARACTER}") and end < len(tokens):
            texts.append("")
            continue
        texts.append(piece)
        begin = end
    if wanted.stopped:
        tokens, texts = [*tokens, processor.stop_token_ids[0]], [*texts, ""]
    if not tokens:
        raise RunError("The response is empty: there is no token to colour.")
    return tokens, texts


def _problem(config: RunConfig, run_dir: Path, wanted: Wanted) -> Problem:
    """The problem as the run has it; raises `DataError` where its dataset is not there."""
    rows, data = Ledger(run_dir).read().sound, config.output_dir / "data"
    if rows:
        folders = data.glob(f"*-{rows[-1].row.dataset_digest}")
        dataset = next(map(open_dataset, folders), None)
    else:
        dataset = find_prepared(config.data, config.output_dir)
    if dataset is None:
        raise DataError(
            f"The dataset of {run_dir} is not in {data}: prepare it again, by the command that "
            "began the run."
        )
    found = _in_split(dataset, wanted)
    if found is None:
        raise DataError(f"{dataset.folder} has no problem {wanted.problem!r} any more.")
    return found


def _in_split(dataset: Dataset, wanted: Wanted) -> Problem | None:
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for split in sorted(splits, key=lambda one: one != wanted.split):
        problems = dataset.problems(split)
        ids = problems.ids()
        if wanted.problem in ids:
            return problems[ids.index(wanted.problem)]
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
