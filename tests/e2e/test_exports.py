"""Exports that prove themselves, on the real engine: check, merge, push, any checkpoint."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub import TOKEN, Hub, serving_hub
from safetensors.torch import load_file, save_file

from flows.by_run import export as export_command
from tasks.exporting import Wishes, complete
from trials.train_chunks import config
from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, prepare
from visual_r1.errors import BackendError, ConfigError, RunError, StorageError
from visual_r1.exports.adapter import fit
from visual_r1.exports.base import load_base_index
from visual_r1.exports.certificate import certify
from visual_r1.exports.contents import alone_in
from visual_r1.exports.record import (
    ADAPTER_FILES,
    CARD_NAME,
    REFERENCE_NAME,
    Export,
    inspect_export,
    read_export,
    write_record,
)
from visual_r1.exports.reference import read_reference
from visual_r1.exports.taken import take
from visual_r1.exports.taken_in import take_in
from visual_r1.models import TINY_GEOMETRY
from visual_r1.policy.policy import open_policy
from visual_r1.progress import Silent
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.export import copy_adapter, export, with_reference_of
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.run import Run
from visual_r1.runs.soundness import examine_run
from visual_r1.wording import as_markdown

INTO = "exports/step-2"
WEIGHTS = ADAPTER_FILES[1]

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # huggingface_hub's own, of httpx.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning"),
]


def settings(folder: Path) -> RunConfig:
    wanted = config(folder).model_dump()
    wanted["run"] = {"name": "proved"}
    wanted["data"] |= {"test": 8}
    wanted["train"] |= {"steps": 2, "chunk_steps": 2}
    return RunConfig.model_validate(wanted)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of two steps."""
    mine = settings(tmp_path_factory.mktemp("exports"))
    backend = Backend(mine)
    dataset: Dataset = prepare(mine.data, mine.output_dir, needs=("train", "test"))
    try:
        with open_run_folder(mine) as run_dir:
            made = Run(mine, run_dir, dataset, backend, Silent())
            train_chunk(made, None)
            yield made
    finally:
        backend.close()


@pytest.fixture(scope="module")
def exported(run: Run) -> Export:
    """With what to compare with."""
    [row] = run.ledger.rows()
    export(run, row, INTO)
    return with_reference_of(run, row, INTO)


@pytest.fixture(scope="module")
def proved(run: Run, exported: Export) -> Export:
    """Merged and checked."""
    complete(run.folder / INTO, exported, Wishes(merge=True, check=True), run.config)
    made = read_export(run.folder, INTO)
    assert made is not None
    return made


def test_adapter_and_merged_model_say_what_the_server_said(run: Run, proved: Export) -> None:
    assert [one.of for one in proved.certificates] == ["adapter", "merged"]
    for one in proved.certificates:
        assert one.passed
        assert one.largest < 1e-4 <= one.tolerance
        assert one.effect > 100 * one.mean
        assert (one.resolved, one.matrices, one.prompts) == (34, 34, 8)
        assert abs(one.scale_error) < 0.005
        assert one.versions["transformers"]
    card = (run.folder / INTO / CARD_NAME).read_text()
    assert as_markdown(proved.certificates[0].verdict) in card
    assert f"base_model: {TINY_GEOMETRY}" in card
    assert "license: apache-2.0" in card
    assert str(run.config.output_dir) not in card
    assert {one.verdict for one in examine_run(run.folder, None)} == {"sound"}


def test_what_changed_is_noticed_beside_the_adapter_and_in_the_model(
    run: Run, proved: Export, tmp_path: Path
) -> None:
    place = run.folder / INTO
    for file in (place / REFERENCE_NAME, place / "merged" / "config.json"):
        whole = file.read_bytes()
        try:
            file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            found = [one for one in examine_run(run.folder, None) if one.verdict == "damaged"]
            assert [file.name in one.found for one in found] == [True]
        finally:
            file.write_bytes(whole)
    assert read_export(run.folder, INTO) == proved


KINDS = ["q_proj.lora_B", "lm_head.lora_A", "visual.blocks.0.attn.qkv"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_that_is_a_percent_off_does_not_pass(
    run: Run, exported: Export, tmp_path: Path, kind: str
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(run.folder / INTO / "adapter", adapter)
    tensors = load_file(adapter / WEIGHTS)
    name = next(name for name in tensors if kind in name)
    save_file(tensors | {name: tensors[name] * 1.01}, adapter / WEIGHTS)
    scored = read_reference(run.folder / INTO)
    found = certify(adapter, None, load_base_index(TINY_GEOMETRY), scored, Silent())
    assert not found.passed
    assert "does not hold" in found.verdict


def test_an_adapter_that_was_never_applied_does_not_pass(
    run: Run, exported: Export, tmp_path: Path
) -> None:
    """A folder with another's weights in it: the digests say so, and so does the check."""
    place = tmp_path / "export"
    shutil.copytree(run.folder / INTO, place)
    tensors = load_file(place / "adapter" / WEIGHTS)
    empty = {name: torch.zeros_like(values) for name, values in tensors.items()}
    save_file(empty, place / "adapter" / WEIGHTS)
    assert "is damaged" in inspect_export(tmp_path, "export")[1]
    made = replace(exported, merged=None, certificates=())
    write_record(place, made)
    with pytest.raises(RunError, match="compared with the server, and it does not hold"):
        complete(place, made, Wishes(check=True, push="owner/name"), run.config)
    assert "does not hold" in (place / CARD_NAME).read_text()


# -- the hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.mark.parametrize("merged", [False, True])
def test_an_export_is_pushed_with_its_card(
    run: Run, proved: Export, hub: Hub, merged: bool
) -> None:
    place = run.folder / INTO
    made = proved if merged else replace(proved, merged=None)
    url = complete(place, made, Wishes(push="owner/name"), run.config)
    assert url == f"{hub.url}/owner/name"
    assert [one["visibility"] for one in hub.made] == ["private"]
    folder = place / ("merged" if merged else "adapter")
    weights = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.files.keys() == weights.keys() | {"README.md", "export.json"}
    assert {name: hub.files[name] for name in weights} == weights
    card = hub.files["README.md"].decode()
    library = "transformers" if merged else "peft"
    assert f"library_name: {library}" in card
    assert as_markdown("it holds: the largest difference") in card


def test_what_the_hub_refuses_is_a_sentence(run: Run, proved: Export, hub: Hub) -> None:
    for status, error in ((403, ConfigError), (500, StorageError)):
        hub.refuses = status
        with pytest.raises(error, match="Nothing is lost: the export is in"):
            complete(run.folder / INTO, proved, Wishes(push="owner/name"), run.config)


@pytest.mark.parametrize(
    ("name", "says"), [("owner/name", "needs a token"), ("name", "OWNER/NAME"), ("a/b/c", "OWNER")]
)
def test_without_a_token_or_a_name_no_server_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, says: str
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=says):
        Wishes(push=name).require_possible()


# -- elsewhere -------------------------------------------------------------------------------------


def test_a_copy_elsewhere_is_a_whole_export_and_takes_none_of_another_base(
    run: Run, proved: Export, tmp_path: Path
) -> None:
    folder = copy_adapter(run.folder, INTO, tmp_path / "copy")
    there = read_export(folder.parent, folder.name)
    assert there == replace(proved, adapter=".")
    assert (folder / CARD_NAME).is_file()
    assert fit(folder, load_base_index(TINY_GEOMETRY)).changed == ""
    saved = json.loads((folder / ADAPTER_FILES[0]).read_text())
    (folder / ADAPTER_FILES[0]).write_text(
        json.dumps(saved | {"base_model_name_or_path": "Qwen/Qwen3.5-4B"})
    )
    with pytest.raises(RunError, match=r"an adapter of the base model Qwen/Qwen3\.5-4B"):
        copy_adapter(run.folder, INTO, folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(StorageError, match=r"holds thesis\.tex"):
        copy_adapter(run.folder, INTO, tmp_path / "other")


def test_a_folder_that_was_exported_needs_no_run_and_no_server(
    run: Run, proved: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_adapter(run.folder, INTO, tmp_path / "copy")
    (folder / CARD_NAME).unlink()
    assert export_command([str(folder)]) == 0
    assert "it holds" in (folder / CARD_NAME).read_text()
    with alone_in(folder):  # as another process that merges
        assert export_command([str(folder), "--merge"]) == 1
        assert "is being written by another process" in " ".join(capsys.readouterr().err.split())
    (folder / REFERENCE_NAME).write_bytes(b"")
    for arguments, says in (
        ([str(folder), "--check"], "is damaged"),
        ([str(folder), "--train.steps", "3"], "was exported before"),
        (["tinker://a/b", "--into", "x"], "is no path of a checkpoint"),
        (["tinker://a:train:0/weights/b"], "--into FOLDER"),
        (["tinker://a:train:0/sampler_weights/b", "--into", "x"], "no server hands out"),
    ):
        assert export_command(arguments) == 1
        assert says in " ".join(capsys.readouterr().err.split())


def test_an_export_of_another_base_in_the_run_is_refused(run: Run, exported: Export) -> None:
    [row] = run.ledger.rows()
    place = run.folder / "exports" / "other"
    shutil.copytree(run.folder / INTO, place)
    write_record(place, replace(exported, base_model="Qwen/Qwen3.5-4B"))
    try:
        with pytest.raises(RunError, match="holds an export of the base model"):
            export(run, row, "exports/other")
    finally:
        shutil.rmtree(place)


def test_any_checkpoint_by_its_path(run: Run, exported: Export, tmp_path: Path) -> None:
    """As of another program: the server says over which base model."""
    folder = tmp_path / "taken"
    made = take(run.backend, exported.state_path, folder, Silent(), check=True)
    assert made.base_model == TINY_GEOMETRY
    assert {one.name: one.sha256 for one in made.files} == {
        one.name: one.sha256 for one in exported.files
    }
    assert len(read_reference(folder)) == 32
    assert take(run.backend, exported.state_path, folder, Silent(), check=True) == made
    with run.backend.session() as service:
        client = service.create_training_client_from_state(exported.state_path).result(timeout=60)
        path = client.save_weights_external("other", ttl_seconds=3600).result(timeout=60).path
    outside = take(run.backend, path, tmp_path / "external", Silent(), check=False)
    assert outside.files == made.files
    for wrong, says in (
        (exported.sampler_path, "no server hands out"),
        ("tinker://x/weights", "no path of a checkpoint"),
        (path, "cannot be sampled from"),
    ):
        with pytest.raises(ConfigError, match=says):
            take(run.backend, wrong, tmp_path / "no", Silent(), check=True)
    with (
        alone_in(tmp_path / "no", beside=True),
        pytest.raises(RunError, match="is being written by another process"),
    ):
        take(run.backend, path, tmp_path / "no", Silent(), check=False)
    with pytest.raises(StorageError, match="another export"):
        take(run.backend, path, folder, Silent(), check=False)


def said_by(run: Run, path: str | None) -> list[float]:
    """The log-probabilities of some tokens under weights at `path`; None is the base model."""
    prompt = open_policy(run.config).prompter.model_input(run.dataset.problems("test")[0])
    with run.backend.session():
        sampler = run.backend.sampler(path)
        said = sampler.compute_logprobs(prompt).result(timeout=60)
    return [one for one in said if one is not None]


def test_an_adapter_in_a_folder_is_sampled_from_as_the_checkpoint_it_was(
    run: Run, exported: Export, tmp_path: Path
) -> None:
    """The engine is at work meanwhile, and looks for what was brought."""
    trained = said_by(run, exported.sampler_path)
    path = take_in(run.folder / INTO, run.config)
    assert said_by(run, path) == trained
    assert said_by(run, None) != trained
    # The folder that PEFT loads is the same one, and a copy elsewhere: it is brought once.
    copy = tmp_path / "elsewhere"
    shutil.copytree(run.folder / INTO / "adapter", copy)
    assert take_in(run.folder / INTO / "adapter", run.config) == path == take_in(copy, run.config)
    # Another scale, and matrices that make up for it, are the same adapter.
    file, weights = copy / ADAPTER_FILES[0], load_file(copy / WEIGHTS)
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"lora_alpha": settings["lora_alpha"] / 4}))
    save_file(
        {name: values * 4 if ".lora_B." in name else values for name, values in weights.items()},
        copy / WEIGHTS,
    )
    scaled = take_in(copy, run.config)
    assert scaled != path
    assert said_by(run, scaled) == trained


def test_weights_that_were_brought_and_damaged_are_brought_again(
    run: Run, exported: Export
) -> None:
    path = take_in(run.folder / INTO, run.config)
    home = run.config.state_dir / "engine"
    [state] = home.glob(f"sessions/{path.split('/')[2].partition(':')[0]}/*/*/*/state.safetensors")
    whole = state.read_bytes()
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert take_in(run.folder / INTO, run.config) == path
    assert state.read_bytes() == whole
    assert list(home.glob("*.damaged-1"))


def test_an_adapter_that_cannot_be_served_is_refused_in_a_sentence(
    run: Run, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(run.folder / INTO / "adapter", adapter)
    with pytest.raises(ConfigError, match=r"There is no adapter in .*adapter_config.json is miss"):
        take_in(tmp_path / "nowhere", run.config)
    other = run.config.model_copy(
        update={"model": run.config.model.model_copy(update={"name": "Qwen/Qwen3-VL-4B-Instruct"})}
    )
    with pytest.raises(ConfigError, match=f"give --model.name {TINY_GEOMETRY}"):
        take_in(adapter, other)
    weights = load_file(adapter / WEIGHTS)
    save_file(
        {name: values for name, values in weights.items() if "o_proj" not in name},
        adapter / WEIGHTS,
    )
    with pytest.raises(BackendError, match="o_proj as trained, and there is no tensor"):
        take_in(adapter, run.config)
    config_file = adapter / ADAPTER_FILES[0]
    settings = json.loads(config_file.read_text())
    settings["target_modules"].remove("o_proj")
    config_file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="evaluate it where it was trained"):
        take_in(adapter, run.config)
    remote = run.config.model_copy(
        update={"backend": run.config.backend.model_copy(update={"server": "remote"})}
    )
    monkeypatch.setenv("TINKER_API_KEY", "tml-x")
    with pytest.raises(ConfigError, match=rf"--sampler-path {exported.sampler_path}"):
        take_in(run.folder / INTO, remote)
    damaged = tmp_path / "damaged"
    shutil.copytree(run.folder / INTO, damaged)
    (damaged / "adapter" / WEIGHTS).write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"is damaged.*Export its checkpoint again"):
        take_in(damaged, run.config)
