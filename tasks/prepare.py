"""A dataset source to a dataset folder."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.context import TaskRunContext

from tasks.caching import Result, cache_key, run_verified, worth_retrying
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, open_dataset
from visual_r1.data.dataset import prepare as prepare_dataset
from visual_r1.data.sources import Split, open_source
from visual_r1.doctor.preflight import require_sound
from visual_r1.errors import DataError
from visual_r1.progress import open_progress

VERSION = 1


def prepare(config: RunConfig, needs: Sequence[Split] = ("train", "test")) -> Dataset:
    """The dataset of `config`, prepared where it is not there yet; it has the splits of `needs`.

    Raises `ConfigError` or `DataError` first for what is wrong with the run: a deployment has no
    command that looks at it before.
    """
    require_sound(config)
    # A source that changed in place is another dataset, though the configuration is the same.
    fingerprint = open_source(config.data).fingerprint
    result = run_verified(_prepare, _complete, config, fingerprint, list(needs))
    dataset = open_dataset(Path(result["folder"]))
    dataset.require(needs)
    return dataset


def _key(_: TaskRunContext, parameters: Result) -> str:
    config: RunConfig = parameters["config"]
    return cache_key(
        "prepare",
        VERSION,
        data=config.data,
        output_dir=config.output_dir.absolute(),
        source=parameters["fingerprint"],
    )


@task(
    name="prepare",
    retries=2,
    retry_delay_seconds=[5, 60],
    retry_condition_fn=worth_retrying,
    cache_key_fn=_key,
    persist_result=True,
    result_serializer="json",
)
def _prepare(config: RunConfig, fingerprint: str, needs: list[Split]) -> Result:
    del fingerprint  # a part of the cache key
    with open_progress() as progress:
        dataset = prepare_dataset(config.data, config.output_dir, progress, needs)
    return {"folder": str(dataset.folder), "digest": dataset.digest}


def _complete(result: Result) -> bool:
    try:
        return open_dataset(Path(result["folder"])).digest == result["digest"]
    except DataError:
        return False
