"""Do seeing and thinking rise together under the Vision-SR1 reward? Whole runs over several seeds.

    python benchmarks/vision_sr1.py --output-dir DIR --seeds 0 1 2

Each seed trains the preset `vision_sr1` on its own problems and is judged before and after on 512
test problems of its own, whose seed (1000 + seed) served nothing else. It runs in the library,
without Prefect, and goes on where it was interrupted. Prints Markdown tables and writes
DIR/outcomes.svg; docs/vision_sr1.md holds both.
"""

import argparse
import json
import sys
from pathlib import Path

from whole_runs import points

from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.evaluate import evaluate
from visual_r1.evaluation.metrics import REPORT_NAME
from visual_r1.policy.second_pass import OUTCOMES
from visual_r1.progress import PlainProgress
from visual_r1.report.figures import OutcomeShares, mean_shares, outcome_chart, outcome_shares
from visual_r1.report.summary import BASELINE, FINAL, summarize
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.journal import read_metrics
from visual_r1.runs.resume import resume_point
from visual_r1.runs.run import Run

FIRST_DATA_SEED = 1000
COLOURS = {"both": "#0b5f8f", "scan_only": "#5aa9c9", "image_only": "#d9a441", "neither": "#d5d8dc"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    folders = {seed: run(arguments.output_dir, seed) for seed in arguments.seeds}
    curves = {seed: outcome_shares(read_metrics(folder)) for seed, folder in folders.items()}
    print("\n".join([*held_out(folders), "", *training(curves)]))
    (arguments.output_dir / "outcomes.svg").write_text(svg(list(curves.values())))


def run(output_dir: Path, seed: int) -> Path:
    """One run to its end; its folder."""
    config = RunConfig.model_validate(
        {
            "preset": "vision_sr1",
            "output_dir": output_dir / f"seed-{seed}",
            "run": {"name": f"vision-sr1-{seed}"},
            "data": {"seed": FIRST_DATA_SEED + seed},
            "train": {"seed": seed},
            "evaluation": {"seed": seed, "samples": 1},
        }
    )
    if (config.run_dir / "summary.json").exists():
        return config.run_dir
    progress = PlainProgress(sys.stderr)
    dataset = prepare(config.data, config.output_dir, progress)
    with open_run_folder(config) as run_dir, open_backend(config) as backend:
        run = Run(config, run_dir, dataset, backend, progress)
        policy = run.policy()

        def judge(name: str, sampler_path: str | None) -> None:
            folder = run_dir / "evaluations" / name
            if not (folder / REPORT_NAME).exists():
                path = sampler_path or config.model.name
                conditions = conditions_of(config, path, dataset.digest)
                problems = dataset.problems("test")
                with backend.session():
                    sampler = backend.sampler(sampler_path)
                    evaluate(sampler, policy, problems, conditions, folder, progress)

        judge(BASELINE, None)
        row = resume_point(run)
        while row is None or row.step < config.train.steps:
            row = train_chunk(run, row)
        judge(FINAL, row.sampler_path)
        seconds = sum(one["seconds_total"] for one in read_metrics(run_dir))
        summarize(run_dir, steps=config.train.steps, wall_seconds=seconds)
    return config.run_dir


def held_out(folders: dict[int, Path]) -> list[str]:
    """Before and after on the test problems, greedy: a Markdown table."""
    lines = [
        "| seed | with the image | difference (95 % CI) | from the scan alone | "
        "difference (95 % CI) | both right | blind | question only |",
        "| --- |" + " ---: |" * 7,
    ]
    for seed, folder in folders.items():
        summary = json.loads((folder / "summary.json").read_text())
        before, after = (
            json.loads((folder / "evaluations" / name / REPORT_NAME).read_text())
            for name in (BASELINE, FINAL)
        )
        both = [report["second_pass"]["outcomes"]["both"] for report in (before, after)]
        lines.append(
            f"| {seed} | {arrow(summary['baseline'], summary['final'])} | {points(summary)} | "
            f"{arrow(summary['scan_only']['baseline'], summary['scan_only']['final'])} | "
            f"{points(summary['scan_only'])} | {arrow(*both)} | "
            f"{arrow(before['blind_accuracy'], after['blind_accuracy'])} | "
            f"{arrow(before['question_only_accuracy'], after['question_only_accuracy'])} |"
        )
    return lines


def training(curves: dict[int, list[OutcomeShares]]) -> list[str]:
    """Outcome shares of the training samples, first ten steps and last ten: a Markdown table."""
    lines = [
        "| seed | " + " | ".join(name.replace("_", " ") for name in OUTCOMES) + " |",
        "| --- |" + " ---: |" * len(OUTCOMES),
    ]
    for seed, shares in curves.items():
        first, last = mean_shares(shares[:10]), mean_shares(shares[-10:])
        cells = " | ".join(arrow(first[name], last[name]) for name in OUTCOMES)
        lines.append(f"| {seed} | {cells} |")
    return lines


def arrow(before: float, after: float) -> str:
    return f"{before:.1%} → {after:.1%}"


def svg(curves: list[list[OutcomeShares]]) -> str:
    """The mean over the seeds, as a picture that stands alone."""
    points = [
        OutcomeShares(
            at[0].step, {name: sum(p.shares[name] for p in at) / len(at) for name in OUTCOMES}
        )
        for at in zip(*curves, strict=True)
    ]
    fills = "".join(f".{name}{{fill:{colour}}}" for name, colour in COLOURS.items())
    style = (
        f"<style>text{{font:13px sans-serif;fill:#565e68}}.grid{{stroke:#c9ced4}}{fills}</style>"
    )
    drawn = str(outcome_chart(points, "outcomes"))
    head, _, rest = drawn.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="690">{style}{rest}\n'


if __name__ == "__main__":
    main()
