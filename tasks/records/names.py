"""What a run is called at Prefect: its flow runs, their tags, its artifacts, its resource."""

import re
from collections.abc import Mapping
from typing import Any

from visual_r1.config import RunConfig
from visual_r1.hashing import digest
from visual_r1.wording import printable

LONGEST = 60
"""Characters of a name within a key, or of a source within a title."""


def flow_run_name(config: RunConfig, what: str = "") -> str:
    """`quickstart-1a2b3c4d`, with what is done about it: `quickstart-1a2b3c4d evaluate final`."""
    return printable(f"{config.run_name} {what}".strip(), most=200)


def first_name(flow: str, parameters: Mapping[str, Any]) -> str:
    """What a flow run is called until its configuration is known: `train quickstart`.

    One whose parameters are wrong keeps it.
    """
    config, overrides = parameters.get("config"), parameters.get("overrides")
    named = overrides.get("run.name") if isinstance(overrides, Mapping) else None
    preset = config.preset if isinstance(config, RunConfig) else parameters.get("preset")
    return printable(f"{flow} {named or preset or ''}".strip(), most=200)


def tags(config: RunConfig) -> list[str]:
    """What the runs of a server are looked through by: preset, model and data."""
    return [
        f"preset:{printable(config.preset)}",
        f"model:{last_part(config.model.name)}",
        f"data:{last_part(config.data.source)}",
    ]


def last_part(name: str) -> str:
    """The last part of a path or an id, which tells it from others: `geometry3k`."""
    return printable(re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name, most=LONGEST)


def artifact_key(config: RunConfig, what: str) -> str:
    """The key of one of the run's artifacts: `quickstart-1a2b3c4d-5e6f70-report`.

    Prefect takes lowercase letters, digits and dashes. Two runs of one name (of two people on one
    server, say) have two folders, and so two keys; a run that is started again keeps its own, and
    its artifacts have a version each time.
    """
    whose = digest(str(config.run_dir.absolute()), 6)
    return f"{_slug(config.run_name)}-{whose}-{_slug(what)}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:LONGEST].strip("-") or "run"


def resource(config: RunConfig) -> dict[str, str]:
    """The run as the resource of an event; an automation can match any of its labels."""
    labels: Mapping[str, str] = {
        "prefect.resource.id": f"visual-r1.run.{_slug(config.run_name)}",
        "visual-r1.run": config.run_name,
        "visual-r1.preset": config.preset,
        "visual-r1.model": config.model.name,
        "visual-r1.data": config.data.source,
        "visual-r1.folder": str(config.run_dir.absolute()),
    }
    return {name: printable(value) for name, value in labels.items()}
