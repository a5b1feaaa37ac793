"""What a run makes, as assets of Prefect, each with what it was made of.

    dataset ─┬─> checkpoint ─┬─> adapter ──> promoted model
    model ───┘               └─> evaluation

Prefect has an asset by the events of the task that made it: one that was found done makes none.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext, FlowRunContext
from prefect.states import Completed

from tasks.records.sending import emit, is_away
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.evaluation.metrics import Report, evaluation_folder
from visual_r1.exports.record import Export, adapter_folder
from visual_r1.hashing import digest
from visual_r1.runs.ledger import LedgerRow
from visual_r1.wording import percent, printable

BY = "visual-r1"

LONGEST_KEY = 400
_NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9._~/@:+=,()-]")


def asset(address: str, name: str, description: str = "") -> Asset:
    """An asset at an address such as `file:///runs/x`; what Prefect has not in a key is replaced.

    Two addresses never share a key: one that was changed ends in a digest.
    """
    key = _NOT_IN_A_KEY.sub("-", address)
    if key != address or len(key) > LONGEST_KEY:
        key = f"{key[:LONGEST_KEY]}-{digest(address)}"
    properties = AssetProperties(name=printable(name), description=printable(description) or None)
    return Asset(key=key, properties=properties)


def base_model(config: RunConfig) -> Asset:
    """The model that training starts from."""
    return asset(f"model://{config.model.name}", config.model.name)


def dataset_asset(dataset: Dataset) -> Asset:
    """The dataset's folder."""
    counts = ", ".join(f"{count} {name}" for name, count in dataset.counts.items())
    return asset(f"file://{dataset.folder.absolute()}", dataset.folder.name, counts)


def checkpoint_asset(config: RunConfig, row: LedgerRow) -> Asset:
    """The weights of a checkpoint, under the address that a Tinker server knows them by."""
    return asset(row.sampler_path, f"{config.run_name}, step {row.step}")


def weights_asset(config: RunConfig, sampler_path: str | None) -> Asset:
    """What an evaluation is of: a checkpoint by its address, or the base model."""
    return asset(sampler_path, sampler_path) if sampler_path else base_model(config)


def adapter_asset(config: RunConfig, into: str) -> Asset:
    """The folder that PEFT loads."""
    folder = adapter_folder(config.run_dir, into).absolute()
    return asset(f"file://{folder}", f"{config.run_name}, adapter")


def materialized(made: Asset, of: Iterable[Asset], metadata: Mapping[str, Any]) -> None:
    """Say that `made` was made out of `of`: when the task at work has succeeded, else now.

    Nothing is done outside of a flow run.
    """
    context = AssetContext.get()
    if context is not None and not is_away():
        context.downstream_assets.add(made)
        context.direct_asset_dependencies.update(of)
        context.materialized_by = BY
        context.materialization_metadata[made.key] = dict(metadata)
    elif context is not None or FlowRunContext.get() is not None:
        own = AssetContext(
            downstream_assets={made},
            direct_asset_dependencies=set(of),
            materialized_by=BY,
            materialization_metadata={made.key: dict(metadata)},
        )
        emit("prefect.asset", partial(own.emit_events, Completed()))


def dataset_made(config: RunConfig, dataset: Dataset) -> None:
    """A dataset was prepared, out of its source."""
    source = config.data.source
    where = source if "://" in source else f"source://{source}"
    if Path(source).exists():
        where = f"file://{Path(source).absolute()}"
    metadata = {"digest": dataset.digest, **dataset.counts}
    materialized(dataset_asset(dataset), [asset(where, source)], metadata)


def checkpoint_made(
    config: RunConfig, dataset: Dataset, start: LedgerRow | None, row: LedgerRow
) -> None:
    """A checkpoint was saved, out of the one before it (or the base model) and the dataset."""
    begun = weights_asset(config, config.model.start_from)
    before = checkpoint_asset(config, start) if start else begun
    metadata = {
        "step": row.step,
        "updates": row.updates,
        "state_path": row.state_path,
        "expires_at": row.expires_at,
    }
    materialized(checkpoint_asset(config, row), [before, dataset_asset(dataset)], metadata)


def evaluation_made(
    config: RunConfig, dataset: Dataset, name: str, sampler_path: str | None, report: Report
) -> None:
    """An evaluation was made, of those weights on the test problems."""
    folder = evaluation_folder(config.run_dir, name).absolute()
    made = asset(f"file://{folder}", f"{config.run_name}, {name}", percent(report.accuracy))
    metadata = {
        "accuracy": report.accuracy,
        "accuracy_ci95": list(report.accuracy_ci95),
        "problems": report.n,
        "blind_accuracy": report.blind_accuracy,
    }
    materialized(made, [weights_asset(config, sampler_path), dataset_asset(dataset)], metadata)


def adapter_made(config: RunConfig, row: LedgerRow, made: Export, into: str) -> None:
    """An adapter was exported, out of its checkpoint."""
    metadata = {
        "step": made.step,
        "trained": made.trained,
        "base_model": made.base_model,
        "files": {file.name: file.bytes for file in made.files},
    }
    materialized(adapter_asset(config, into), [checkpoint_asset(config, row)], metadata)


def promoted_model(
    config: RunConfig, model: Path, adapter: Path, evidence: Mapping[str, Any]
) -> None:
    """A run's adapter was promoted: `model` is the record under models/, which names it.

    `evidence` is what it was promoted for; it must be JSON.
    """
    made = asset(f"file://{model.absolute()}", model.stem)
    of = asset(f"file://{adapter.absolute()}", f"{config.run_name}, adapter")
    materialized(made, [of], evidence)
