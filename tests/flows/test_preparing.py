"""What is wrong with a run is said before its first task, also where no command looked at it."""

from pathlib import Path

import pytest

from tasks.tasks import prepare
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"train": {"loss": "dro"}, "algorithm": {"loss_config": {"beta": 0}}}, "beta is 0"),
        ({"reward": {"custom": "nowhere:reward"}}, "nowhere"),
    ],
)
def test_a_deployment_s_mistakes_are_found_before_the_baseline(
    tmp_path: Path, values: dict[str, object], sentence: str
) -> None:
    config = RunConfig.model_validate({"preset": "quickstart", "output_dir": tmp_path, **values})
    with pytest.raises(ConfigError, match=sentence):
        prepare(config)
    assert not any(tmp_path.iterdir())
