"""What decides the outcome of an evaluation: nothing is forgotten, and unknown is not equal."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from made_up import conditions, predictions, problems, write_evaluation

from visual_r1.compare.comparison import compare
from visual_r1.compare.sides import find_sides
from visual_r1.config import RunConfig
from visual_r1.evaluation.answers import depends_on
from visual_r1.evaluation.conditions import conditions_of, is_complete
from visual_r1.evaluation.deciding import (
    DECIDES,
    GREEDY,
    SAMPLED,
    Conditions,
    differing,
    is_unknown,
    vouched,
)
from visual_r1.evaluation.kept import find_kept
from visual_r1.evaluation.metrics import REPORT_NAME, read_report
from visual_r1.prompts.templates import load_template

KNOWN = {"template_digest": "aaaa", "max_pixels": 4096}
UNKNOWN: dict[str, Any] = {"template_digest": "", "max_pixels": 0}
ASKED = problems(8)

# Settings by how an evaluation of them could come out otherwise, and what they do to conditions.
CHANGES: list[tuple[Mapping[str, Any], set[str]]] = [
    ({"model": {"name": "another"}}, {"model"}),
    ({"model": {"max_pixels": 2048}}, {"max_pixels"}),
    ({"model": {"thinking": "off"}}, {"thinking"}),
    ({"prompt": {"template": "scan_think"}}, {"template", "template_digest"}),
    ({"sampling": {"max_new_tokens": 7}}, {"max_new_tokens"}),
    ({"sampling": {"temperature": 0.3}}, {"temperature"}),
    ({"reward": {"rounding": "rounded"}}, {"rounding"}),
    ({"evaluation": {"seed": 4}}, {"seed"}),
    ({"evaluation": {"samples": 3}}, {"k"}),
    ({"evaluation": {"blind": False}}, {"blind"}),
    ({"evaluation": {"controls": ["other_image"]}}, {"control_passes"}),
    ({"evaluation": {"controls": ["scan_only"]}}, {"control_passes", "reader"}),
]


def test_each_condition_says_what_depends_on_it():
    assert list(DECIDES) == [one.name for one in fields(Conditions)]
    assert set(GREEDY) | {"sampler_path"} >= set(depends_on("greedy", conditions()))
    assert set(SAMPLED) - set(GREEDY) == {"seed", "k", "temperature"}
    # What came later has a default, and where that is nothing to compare it is unknown.
    known = {one.name for one in fields(Conditions) if not is_unknown(one.name, one.default)}
    assert {one.name for one in fields(Conditions)} - known == {"template_digest", "max_pixels"}


@pytest.mark.parametrize(("settings", "changed"), CHANGES)
def test_a_setting_that_changes_what_comes_out_changes_a_condition(
    settings: Mapping[str, Any], changed: set[str]
):
    before, after = (
        asdict(conditions_of(RunConfig.model_validate(of), "weights", "data"))
        for of in ({"preset": "seed"}, {"preset": "seed", **settings})
    )
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize("part", ["template", "second"])
def test_what_a_template_says_is_a_condition(tmp_path: Path, part: str):
    name = "think" if part == "template" else "scan_only"
    mine = tmp_path / "mine.txt"
    text = load_template(name).path.read_text()
    mine.write_text(text)
    settings: dict[str, Any] = {"preset": "seed", "prompt": {"template": str(mine)}}
    if part == "second":
        settings["prompt"] = {"template": "scan_think"}
        settings["second_pass"] = {"enabled": True, "template": str(mine)}
    config = RunConfig.model_validate(settings)
    before = conditions_of(config, "weights", "data")
    mine.write_text(text + "\nBe brief.")
    after = conditions_of(config, "weights", "data")
    changed = {"template": {"template_digest"}, "second": {"reader"}}[part]
    assert set(differing(before, after, DECIDES, unknown=True)) == changed
    answered = "greedy" if part == "template" else "scan_only"
    assert depends_on(answered, before) != depends_on(answered, after)


def test_what_nobody_wrote_down_is_neither_the_same_nor_another():
    old, new = conditions(**UNKNOWN), conditions(**KNOWN)
    assert differing(old, new, DECIDES, unknown=True) == ["template_digest", "max_pixels"]
    assert differing(old, old, DECIDES, unknown=True) == ["template_digest", "max_pixels"]
    assert differing(old, new, DECIDES, unknown=False) == []
    other = replace(new, max_pixels=2048)
    for unknown in (True, False):
        assert differing(new, other, DECIDES, unknown=unknown) == ["max_pixels"]
    assert vouched(old, new) == new and vouched(other, new) == other


def test_a_report_of_an_earlier_version_is_read_and_its_run_vouches_for_it(tmp_path: Path):
    write_evaluation(tmp_path, ASKED, predictions(ASKED, 0.5, seed=0), **KNOWN)
    stored = json.loads((tmp_path / REPORT_NAME).read_text())
    del stored["template_digest"], stored["max_pixels"], stored["checksum"]
    (tmp_path / REPORT_NAME).write_text(json.dumps(stored))
    assert read_report(tmp_path).conditions.max_pixels == 0
    wanted, ids = conditions(**KNOWN), [one.id for one in ASKED]
    assert is_complete(tmp_path, RunConfig.model_validate({"preset": "quickstart"}), wanted, 8)
    assert find_kept(tmp_path, (), wanted, ids).count(["greedy"]) == {"greedy": 8}


@pytest.mark.parametrize("changed", [{"template_digest": "bbbb"}, {"max_pixels": 2048}])
def test_answers_under_another_template_or_size_are_not_used(tmp_path: Path, changed: Any):
    write_evaluation(tmp_path, ASKED, predictions(ASKED, 0.5, seed=0), **KNOWN)
    wanted, ids = conditions(**{**KNOWN, **changed}), [one.id for one in ASKED]
    assert not is_complete(tmp_path, RunConfig.model_validate({"preset": "quickstart"}), wanted, 8)
    kept = find_kept(tmp_path, (), wanted, ids)
    assert kept.count(["greedy", "sampled"]) == {"greedy": 0, "sampled": 0}
    assert DECIDES[next(iter(changed))].setting in kept.changed


def test_a_comparison_names_them_and_says_where_they_are_not_known(tmp_path: Path):
    def made(run: str, name: str, **changes: Any) -> str:
        folder = tmp_path / run / "evaluations" / name
        write_evaluation(folder, ASKED, predictions(ASKED, 0.5, seed=0), **changes)
        return str(folder)

    def said(*folders: str) -> list[str]:
        return list(compare(find_sides(folders)).against[0].differing)

    old, new = made("a", "old", **UNKNOWN), made("b", "new", **KNOWN)
    other = made("c", "other", **{**KNOWN, "max_pixels": 2048})
    assert said(new, other) == ["max pixels: 4096 in b:new, 2048 in c:other"]
    assert said(old, new) == [
        "template digest: not known in a:old, aaaa in b:new",
        "max pixels: not known in a:old, 4096 in b:new",
    ]
    assert said(old, made("a", "later", **KNOWN)) == []  # one run has one template
