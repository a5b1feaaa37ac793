"""A prompt of the user's own is a part of the run, like a reward function of their own."""

from pathlib import Path

import pytest

from visual_r1.config import RunConfig
from visual_r1.errors import RunError
from visual_r1.runs.folder import keep_files, require_same_files

PROMPT = "[user]\n{{ problem }}\nThink inside <think> </think>, answer inside <answer> </answer>."
SCAN = "[user]\n{{ question }}\n{{ scan }}\nAnswer inside <answer> </answer>."


@pytest.mark.parametrize("changed", ["prompt.txt", "scan.txt"])
def test_a_run_keeps_the_prompts_it_began_with(tmp_path: Path, changed: str) -> None:
    prompt, scan = tmp_path / "prompt.txt", tmp_path / "scan.txt"
    prompt.write_text(PROMPT)
    scan.write_text(SCAN)
    config = RunConfig.model_validate(
        {
            "preset": "vision_sr1",
            "output_dir": tmp_path,
            "prompt": {"template": str(prompt)},
            "second_pass": {"template": str(scan)},
        }
    )
    config.run_dir.mkdir(parents=True)
    keep_files(config, config.run_dir, anew=True)
    require_same_files(config)
    file = tmp_path / changed
    file.write_text(file.read_text() + " Be brief.")
    with pytest.raises(RunError, match=rf"{changed} has changed since .*another run"):
        require_same_files(config)
    keep_files(config, config.run_dir, anew=False)  # no quiet change in the middle
    with pytest.raises(RunError):
        require_same_files(config)


def test_what_ships_with_the_package_is_not_copied(tmp_path: Path) -> None:
    config = RunConfig(preset="vision_sr1", output_dir=tmp_path)
    config.run_dir.mkdir(parents=True)
    keep_files(config, config.run_dir, anew=True)
    assert list(config.run_dir.iterdir()) == []
