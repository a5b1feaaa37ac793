"""Pages of what was written, without a browser: pictures, colours, answers, pairs, what is gone."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from looked_at import TOKEN
from made_up import picture, predictions, problems, write_evaluation
from PIL import Image
from starlette.testclient import TestClient
from written import DIGEST, HOSTILE, RUN, rollout_row, stored_problem, write_home, write_rollouts

from visual_r1.compare.comparison import compare
from visual_r1.compare.sides import find_sides
from visual_r1.errors import DataError
from visual_r1.evaluation.deciding import GREEDY, Conditions
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.hashing import file_digest
from visual_r1.pages.app import pages
from visual_r1.pages.marked import excerpt, marked, pieces_of
from visual_r1.pages.pictures import picture_answer
from visual_r1.pages.reading import ReportFigures
from visual_r1.pages.samples import Sample
from visual_r1.pages.written import answers_of, shown_samples
from visual_r1.regrade.changes import Change, Figures, Kind, Share
from visual_r1.regrade.files import Basis, RegradedFile, write_record
from visual_r1.regrade.truths import Truths
from visual_r1.runs.decisions import read_decisions, record

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    run_dir = write_home(tmp_path, [stored_problem(index) for index in range(3)])
    rows = [rollout_row(step, group, n) for step in (1, 5) for group in (0, 1) for n in range(4)]
    write_rollouts(run_dir, 0, rows)
    of = problems(40)
    for name, accuracy in (("baseline", 0.3), ("final", 0.7)):
        write_evaluation(evaluation_folder(run_dir, name), of, predictions(of, accuracy, 1))
    return tmp_path


@pytest.fixture
def asked(home: Path) -> Iterator[TestClient]:
    with TestClient(pages(home, TOKEN), base_url="http://127.0.0.1:4280") as client:
        client.get(f"/?token={TOKEN}")
        yield client


def encoded(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).convert(mode).save(out, kind)
    return out.getvalue()


def test_an_evaluation_says_what_its_controls_and_another_grader_say(asked: TestClient, home: Path):
    folder = evaluation_folder(home / "runs" / RUN, "final")
    at = f"/runs/{RUN}/evaluations/final"
    plain = asked.get(at).text
    assert "Graded again" not in plain
    report = json.loads((folder / "report.json").read_text())
    # As a version without intervals of the outcomes wrote it.
    shares = {"both": 0.1, "image_only": 0.6, "without_only": 0.05, "neither": 0.25}
    blind = {
        "n": 40, "correct": 6, "accuracy": 0.15, "accuracy_ci95": [0.07, 0.29], "paired": 40,
        "outcomes": shares, "difference": 0.55, "difference_ci95": [0.36, 0.68], "p_value": 1e-6,
    }  # fmt: skip
    seeing = {"value": 0.785, "ci95": [None, 0.9], "without": "blind", "n": 40}
    report["controls"] = {"by_name": {"blind": blind}, "seeing": seeing, "roundings": {}}
    report.pop("checksum", None)
    (folder / "report.json").write_text(json.dumps(report))
    result = folder / "regraded-7.parquet"
    result.write_bytes(b"the answers")
    was, now = Share(40, 28, 0.7, (0.55, 0.82)), Share(40, 29, 0.725, (0.57, 0.84))
    kind = Kind("greedy", "wrong", "", "right", "<b>units</b>", "the grader")
    again = RegradedFile(
        Basis("predictions.parquet", report["predictions_digest"], "exact", "", "", "7"),
        graded=40,
        before=Figures({"greedy": was}),
        after={"exact": Figures({"greedy": now}), "rounded": Figures({})},
        changes=(Change(kind, 1, ()),),
        result_digest=file_digest(result),
    )
    write_record(result, again)
    shown = " ".join(asked.get(at).text.split())
    assert "<strong>Seeing against thinking 78.5% <small>at most 90.0%</small></strong>" in shown
    assert "60.0%<small>44.6 to 73.7%</small>" in shown, "Wilson's of 24 of 40"
    assert "1 of 40 verdicts changed." in shown and "72.5%<small>" in shown
    assert "&lt;b&gt;units" in shown
    assert "78.5%" in asked.get(f"/runs/{RUN}").text
    assert "78.5%" in asked.get(f"/runs/{RUN}/evaluations").text
    # Of answers that have been asked anew since, it says nothing.
    write_record(result, replace(again, basis=replace(again.basis, source_digest="another")))
    assert "Graded again" not in asked.get(at).text
    # Nor of what is not as it was written.
    write_record(result, again)
    assert "Graded again" in asked.get(at).text
    result.write_bytes(b"other answers")
    assert "Graded again" not in asked.get(at).text


def test_decisions_of_people_are_told_from_the_grader_and_others_of_today_are_said(
    asked: TestClient, home: Path
):
    folder = evaluation_folder(home / "runs" / RUN, "final")
    report = json.loads((folder / "report.json").read_text())
    result = folder / "regraded-7.parquet"
    result.write_bytes(b"the answers")
    share = Share(40, 28, 0.7, (0.55, 0.82))
    kinds = [
        Kind("greedy", "wrong", "", "right", "units", "grader"),
        Kind("greedy", "right", "", "wrong", "another value", "decision"),
    ]

    def page(decisions: str, *decided: str) -> str:
        again = RegradedFile(
            Basis("predictions.parquet", report["predictions_digest"], "exact", "", decisions, "7"),
            graded=40,
            before=Figures({"greedy": share}),
            after={"exact": Figures({"greedy": share}), "rounded": Figures({})},
            changes=tuple(Change(kind, 1, ()) for kind in kinds),
            decided=decided,
            result_digest=file_digest(result),
        )
        write_record(result, again)
        return asked.get(f"/runs/{RUN}/evaluations/final").text

    warning = "The decisions about labels are others by now"
    shown = page("")
    assert "Graded again, by version 7</h2>" in shown and warning not in shown
    assert "units" in shown and "(by the grader)" in shown
    assert "(by a decision about the label)" in shown
    made = record(home, "test-0003", "c" * 32, "other", gold="1", answer="2")
    assert warning in page(""), "one more is decided than it was graded by"
    now = Truths(home, read_decisions(home)).of(report["dataset_digest"]).decisions_digest
    shown = page(now, "test-0003")
    assert warning not in shown
    assert "by version 7 and by decisions about labels</h2>" in shown
    assert "1 problem was graded by what a person decided" in shown
    assert f'<a href="/runs/{RUN}/problem?id=test-0003">' in shown
    record(home, made.problem_id, made.content, "withdrawn", gold="1")
    assert warning in page(now, "test-0003")
    assert f"visual-r1 regrade {RUN}" in page(now, "test-0003")


def test_each_response_of_a_gallery_leads_to_its_tokens(asked: TestClient):
    of = f"/runs/{RUN}/tokens?evaluation="
    gallery = asked.get(f"/runs/{RUN}/evaluations/final?text=test-0003").text
    assert f'href="{of}final&amp;problem=test-0003"' in gallery
    pair = {"a": f"{RUN}/baseline", "b": f"{RUN}/final", "text": "test-0003"}
    duels = "".join(
        asked.get("/compare", params=pair | {"fate": fate}).text
        for fate in ("gained", "lost", "wrong", "right")
    )
    for name in ("baseline", "final"):
        assert f'href="{of}{name}&amp;problem=test-0003"' in duels
    assert (
        f'href="{of}final&amp;problem=test-0003"'
        in asked.get(f"/runs/{RUN}/problem?id=test-0003").text
    )


def test_a_picture_is_what_it_is_and_nothing_else():
    png, jpeg = encoded("PNG"), encoded("JPEG")
    for data, kind in ((png, "image/png"), (jpeg, "image/jpeg")):
        answer = picture_answer(data)
        assert (answer.media_type, bytes(answer.body)) == (kind, data)
    for data in (
        encoded("GIF"),
        encoded("BMP"),
        encoded("WEBP"),
        png + b"<script>alert(1)</script>",
    ):
        answer = picture_answer(data)
        assert answer.media_type == "image/png"
        assert bytes(answer.body).startswith(b"\x89PNG") and b"script" not in bytes(answer.body)
    for data in (SVG, b"<html>", b"", png[:80]):
        answer = picture_answer(data)
        assert (answer.status_code, answer.media_type) == (415, "text/plain")
        assert b"<" not in bytes(answer.body)
    assert picture_answer(None).status_code == 404


def test_pictures_are_served_by_dataset_problem_and_index(asked: TestClient, home: Path):
    at = f"/runs/{RUN}/pictures/{DIGEST}/0"
    answer = asked.get(at, params={"problem": "set/2"})
    assert answer.content == picture(2) and answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert asked.get(at.removesuffix("0") + "1", params={"problem": "set/2"}).status_code == 404
    assert asked.get(at, params={"problem": "no"}).status_code == 404
    for digest in ("", "*", "..", "ffffffff"):
        answer = asked.get(f"/runs/{RUN}/pictures/{digest or '%20'}/0", params={"problem": "set/2"})
        assert answer.status_code in (404, 409) and not answer.content.startswith(b"\x89PNG")
    evaluated = f"/runs/{RUN}/evaluations/final/pictures/0"
    assert asked.get(evaluated, params={"problem": "test-0003"}).content == picture(3)


@pytest.mark.parametrize(
    "response",
    [
        *HOSTILE.values(),
        "",
        "<think>a</think><answer>b</answer>",
        "<scan>a<think>b</scan>c</think>d</answer>",
        "\\boxed{\\frac{1}{2}} and \\boxed{ never closed <answer>5</answer>",
        "[masked] = 5 <answer>",
    ],
)
def test_a_response_in_colour_is_the_response(response: str):
    assert "".join(piece.text for piece in pieces_of(response)) == response
    for shown in (0, 7, 4_000):
        assert "<script" not in marked(response, shown) and "<img" not in marked(response, shown)


def test_tags_and_boxes_have_their_colours():
    found = [(one.kind, one.text) for one in pieces_of("<think>a</think>b<answer>\\boxed{c}")]
    assert found == [
        ("think", "<think>"), ("think", "a"), ("think", "</think>"), ("", "b"),
        ("answer", "<answer>"), ("boxed", "\\boxed{c}"),
    ]  # fmt: skip


def test_what_is_found_in_a_response_stands_out_whatever_is_around_it():
    assert excerpt("a<b> A<B>", "a<B>").count("<mark>a&lt;b&gt;</mark>") == 1
    unseen = '<span class="unseen" title="right-to-left override">U+202E</span>'
    assert excerpt("x\u202ey", None) == f'<bdi class="said">x{unseen}y</bdi>'


def sample(number: int, answer: str | None, *, right: bool = False, **changes: object) -> Sample:
    row = rollout_row(number, 0, number, verdict="right" if right else "wrong")
    row["response"] = "<think>x</think>" + (f"<answer>{answer}</answer>" if answer else "")
    components = {"accuracy": row.pop("reward_accuracy"), "format": row.pop("reward_format")}
    return Sample(**(row | {"components": components} | changes))  # type: ignore[arg-type]


def test_answers_are_counted_by_what_the_grader_takes_for_the_same():
    given = [("1/2", True), ("0.5", True), ("\\frac{1}{2}", True), ("3", False), ("3.0", False)]
    samples = [sample(at, text, right=right) for at, (text, right) in enumerate(given)]
    found = answers_of([*samples, sample(9, None)], "0.5")
    assert [(one.n, len(one.spellings), one.is_gold) for one in found] == [
        (3, 3, True), (2, 2, False), (1, 0, False),
    ]  # fmt: skip
    assert (found[0].first, found[0].last) == (0, 2)


def test_parts_of_a_reward_add_up_to_it():
    weights = {"accuracy": 1.0, "format": 0.5}
    settings = {"reward": weights, "second_pass": {"reward": 1.0, "penalty": -0.5}}
    components = {"accuracy": 1.0, "format": 1.0, "random": 1.0, "second_pass": 0.0}
    [shown] = shown_samples([sample(0, "62", components=components)], None, settings)
    assert [part.name for part in shown.parts] == ["accuracy", "format", "second_pass", "random"]
    assert sum(part.worth for part in shown.parts) == 1.0


def test_two_evaluations_are_paired_as_the_summary_pairs_them(asked: TestClient, home: Path):
    from visual_r1.pages.evaluations import _paired
    from visual_r1.pages.predictions import evaluations_of, right_by_id
    from visual_r1.pages.queries import queries
    from visual_r1.report.summary import summary_of

    found, faults = evaluations_of(RUN, home / "runs" / RUN)
    assert not faults
    with queries().session() as session:
        old, new = ({one.id: one for one in right_by_id(session, each)} for each in found)
    paired = _paired([(old[id], new[id]) for id in old])
    whole = summary_of(home / "runs" / RUN, steps=6, wall_seconds=1.0).accuracy
    assert paired == whole
    text = asked.get("/compare", params={"a": f"{RUN}/baseline", "b": f"{RUN}/final"}).text
    assert f"{paired.gained} won, {paired.lost} lost" in text


def test_pairs_that_a_text_chose_have_no_verdict_and_the_text_is_named(asked: TestClient):
    pair = {"a": f"{RUN}/baseline", "b": f"{RUN}/final"}
    plain = asked.get("/compare", params=pair).text
    assert "points better" in plain and "exact McNemar" in plain
    text = asked.get("/compare", params=pair | {"text": "<answer>1"}).text
    assert "&lt;answer&gt;1</bdi></q> alone" in text
    assert "won," in text.partition("<h1>")[2].partition("</h1>")[0]
    for verdict in ("points better", "Not distinguishable", "McNemar", "p &lt;", "at 95%"):
        assert verdict not in text
    assert "<strong>A's response</strong>" in text and "No test says whether B is better" in text
    assert 'class="good"' not in text
    asked.get("/compare", params=pair | {"text": "no such"}).text.index("Nothing to compare")


@pytest.mark.parametrize("what", ["answer", "picture"])
def test_the_page_compares_what_the_command_compares(asked: TestClient, home: Path, what: str):
    of = problems(40)
    others = [
        replace(one, answer="777") if what == "answer" else replace(one, images=(picture(99),))
        for one in of
    ]
    run_dir = home / "runs" / RUN
    changed = {"decisions": "0a1b"} if what == "answer" else {"dataset_digest": "of-others"}
    for name, asked_about in (("few", [*others[:2], *of[2:]]), ("all", others)):
        folder = evaluation_folder(run_dir, name)
        write_evaluation(folder, asked_about, predictions(of, 0.7, 1), **changed)
    few, everything = (
        asked.get("/compare", params={"a": f"{RUN}/baseline", "b": f"{RUN}/{name}"})
        for name in ("few", "all")
    )
    assert "of 38 problems; the difference" in few.text
    assert "2 problems have another question, answer or picture" in few.text
    made = "another decisions (none and 0a1b)" if what == "answer" else "another dataset digest"
    assert made in few.text
    assert everything.status_code == 409
    said = "40 stand for another question, answer or picture, and 0 for the same problem"
    sides = find_sides([str(evaluation_folder(run_dir, one)) for one in ("baseline", "few", "all")])
    assert compare(sides[:2]).against[0].accuracy.n == 38
    with pytest.raises(DataError, match=said):
        compare([sides[0], sides[2]])
    assert said in everything.text


def test_the_page_names_each_condition_of_the_greedy_answers():
    of_other_passes = {"seed", "k", "temperature", "blind", "control_passes", "reader"}
    others = {"sampler_path"} | of_other_passes  # which weights answered is what is compared
    assert {*GREEDY} == {one.name for one in fields(Conditions)} - others
    assert {*GREEDY} <= {one.name for one in fields(ReportFigures)}


def test_of_no_problem_nothing_is_concluded(asked: TestClient):
    two = {"a": f"{RUN}/baseline", "b": f"{RUN}/final"}
    for narrowed in ({"text": "no such text"}, {"family": "none such"}):
        text = asked.get("/compare", params=two | narrowed).text
        assert "Nothing to compare" in text and "istinguishable" not in text
    assert "does not say b" in asked.get("/compare", params={"a": f"{RUN}/baseline"}).text


def test_an_evaluation_that_is_damaged_is_named_and_the_others_shown(asked: TestClient, home: Path):
    path = home / "runs" / RUN / "evaluations" / "final" / "predictions.parquet"
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(bytes(content))
    text = asked.get(f"/runs/{RUN}/evaluations").text
    assert "predictions.parquet is damaged" in text and ">baseline<" in text
    assert asked.get(f"/runs/{RUN}/evaluations/final").status_code == 409


def test_without_its_dataset_a_group_is_shown_and_why_there_is_no_picture(
    asked: TestClient, home: Path
):
    shutil.rmtree(home / "data")
    answer = asked.get(f"/runs/{RUN}/group", params={"step": 1, "group": 0})
    assert answer.status_code == 200
    assert "cannot be shown" in answer.text and "Sample 3" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/group?step=9&group=9",
        "/problem?id=no-such",
        "/evaluations/no-such",
        "/evaluations/..%2F..",
        "/rollouts?verdict=maybe",
        "/group?step=one&group=0",
        f"/group?step={10**40}&group={10**40}",
        f"/rollouts?step_from={10**40}",
        f"/rollouts?after=nan,{10**40},0,0",
        "/evaluations/final?page=x",
        "/evaluations/final?kind=odd",
    ],
)
def test_an_address_that_leads_nowhere_is_a_sentence_on_a_page(asked: TestClient, path: str):
    answer = asked.get(f"/runs/{RUN}{path}")
    assert answer.status_code in (404, 409, 422)
    assert answer.text.startswith("<!doctype html>") and "Traceback" not in answer.text


def test_a_run_without_rollouts_says_so(tmp_path: Path):
    write_home(tmp_path, [stored_problem(0)])
    with TestClient(pages(tmp_path, TOKEN), base_url="http://127.0.0.1:4280") as client:
        client.get(f"/?token={TOKEN}")
        assert "No rollouts yet" in client.get(f"/runs/{RUN}/rollouts").text
        assert "No evaluation yet" in client.get(f"/runs/{RUN}/evaluations").text
        assert json.loads((tmp_path / "runs" / RUN / "config.json").read_text())


def test_a_group_says_in_which_order_the_second_pass_saw_the_choices(tmp_path: Path) -> None:
    words = ("acute", "<b>right</b>", "obtuse")
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip("ABC", words, strict=True))
    asking = stored_problem(0, problem=f"<image>Which?\n{listed}", answer="B", choices=words)
    run_dir = write_home(tmp_path / "choices", [asking])
    second = {
        "response": "<scan>An angle.</scan><think>t</think><answer>B</answer>",
        "scan_read": "An angle.", "second_response": "<think>t</think><answer>C</answer>",
        "second_verdict": "right",
    }  # fmt: skip
    orders = ("CAB", "", None)
    rows = [rollout_row(1, 0, n, **second, second_order=order) for n, order in enumerate(orders)]
    write_rollouts(run_dir, 0, rows)
    with TestClient(pages(tmp_path / "choices", TOKEN), base_url="http://127.0.0.1:4280") as client:
        client.get(f"/?token={TOKEN}")
        page = client.get(f"/runs/{RUN}/group?step=1&group=0").text
    assert page.count("It was shown the choices in another order") == 1
    said = page.partition("in another order:")[2][:400]
    assert said.index("A. ") < said.index("obtuse") < said.index("B. ") < said.index("acute")
    assert said.index("C. ") < said.index("&lt;b&gt;right&lt;/b&gt;")
