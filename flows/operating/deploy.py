"""`visual-r1 deploy`: what is in `deployments/prefect.yaml`, with what people set since.

Prefect's own `prefect deploy --all` sets schedules and parameters back to what the file says. This
gives it a file in which a person's values stand, and only the deployments that change.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import MissingFlowError, ObjectNotFound, ScriptError
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.templating import apply_values
from prefect.variables import Variable

from flows.operating.project import PREFECT_FILE
from flows.operating.shipped import (
    Merged,
    Table,
    as_entry,
    as_text,
    digests,
    merge,
    schedules_of,
    table_of_deployment,
    table_of_entry,
)
from visual_r1.errors import ConfigError
from visual_r1.printing import say

REMEMBERED = "visual_r1_shipped_"
"""Variables on the server, one a deployment: the digests of what was shipped last."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A deployment of the file: its name with the flow's, what the file says, the flow's form."""

    name: str
    content: dict[str, Any]
    ours: Table
    form: dict[str, Any]

    @property
    def variable(self) -> str:
        """Where what was shipped last is remembered."""
        return REMEMBERED + re.sub(r"[^a-z0-9]+", "_", self.name.lower())


@dataclass(frozen=True, slots=True)
class Change:
    """What is done about an entry; `merged` is None for one that is not there and stays away."""

    entry: Entry
    existing: DeploymentResponse | None
    theirs: Table | None
    merged: Merged | None
    is_due: bool


def deploy(root: Path, reset: Collection[str] = ()) -> None:
    """Create and update the deployments of the file in `root`, and say what was kept.

    Those named in `reset` become what is shipped.

    Raises:
        ConfigError: the file, or a name in `reset`, is wrong; Prefect refuses a deployment.
    """
    content = _read(root / PREFECT_FILE)
    pull = apply_values(content.get("pull"), dict(os.environ), remove_notset=False)
    form_of = cache(partial(_flow_and_form, root))
    entries = [_entry(given, form_of) for given in content["deployments"]]
    if unknown := set(reset) - {entry.name for entry in entries}:
        names = ", ".join(entry.name for entry in entries)
        raise ConfigError(
            f"{PREFECT_FILE} has no deployment {', '.join(sorted(unknown))}: it has {names}."
        )
    with get_client(sync_client=True) as client:
        changes = [_change(client, entry, pull, entry.name in reset) for entry in entries]
        due = [change for change in changes if change.is_due]
        if due:
            _apply(root, content, due)
            for change in due:
                _remove_surplus_schedules(client, change)
    for change in changes:
        if change.merged is not None:
            Variable.set(change.entry.variable, digests(change.entry.ours), overwrite=True)
    _tell(changes)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: Any = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("deployments"), list):
        raise ConfigError(f"{path} has no list of deployments.")
    return content


def _entry(given: dict[str, Any], form_of: Callable[[str], tuple[str, dict[str, Any]]]) -> Entry:
    """An entry with its templates of the environment resolved, as `prefect deploy` does."""
    resolved = apply_values(given, dict(os.environ), remove_notset=False)
    content = cast("dict[str, Any]", resolved)
    if not content.get("entrypoint") or not content.get("name"):
        raise ConfigError(f"{PREFECT_FILE}: each deployment needs a name and an entrypoint.")
    flow, form = form_of(content["entrypoint"])
    return Entry(f"{flow}/{content['name']}", content, table_of_entry(content), form)


def _flow_and_form(root: Path, entrypoint: str) -> tuple[str, dict[str, Any]]:
    """The flow's name, and its parameters as the UI's form shows them."""
    try:
        flow = load_flow_from_entrypoint(str(root / entrypoint))
    except (MissingFlowError, ScriptError, OSError) as error:
        raise ConfigError(
            f"{PREFECT_FILE}: the flow {entrypoint} cannot be loaded: {error}."
        ) from error
    return flow.name, parameter_schema(flow).model_dump(mode="json", exclude_unset=True)


def _change(client: SyncPrefectClient, entry: Entry, pull: Any, resets: bool) -> Change:
    base: Any = Variable.get(entry.variable)
    try:
        existing = client.read_deployment_by_name(entry.name)
    except ObjectNotFound:
        if base is not None and not resets:
            return Change(entry, None, None, None, is_due=False)  # somebody deleted it
        return Change(entry, None, None, Merged(entry.ours, (), ()), is_due=True)
    theirs = table_of_deployment(existing, entry.ours)
    if resets:
        updated = tuple(merge(entry.ours, theirs, digests(theirs)).updated)
        merged = Merged(entry.ours, (), updated)
    else:
        merged = merge(entry.ours, theirs, base)
    is_current = (
        existing.entrypoint == entry.content["entrypoint"]
        and existing.pull_steps == entry.content.get("pull", pull)
        and existing.parameter_openapi_schema == entry.form
    )
    return Change(entry, existing, theirs, merged, is_due=bool(merged.updated) or not is_current)


def _apply(root: Path, content: dict[str, Any], due: list[Change]) -> None:
    """Let Prefect deploy those that change, from a file of theirs."""
    entries = [
        as_entry(change.merged.table, change.entry.content, change.theirs)
        for change in due
        if change.merged is not None
    ]
    shipped = {
        name: content[name]
        for name in ("prefect-version", "name", "pull", "build", "push")
        if name in content
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(shipped | {"deployments": entries}, sort_keys=False))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"),
                *("--prefect-file", str(file)),
            ],
            cwd=root,
            env=os.environ | {"PWD": str(root), "COLUMNS": "1000", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ConfigError(
            f"Prefect refused a deployment of {PREFECT_FILE}: {lines[-1] if lines else 'no reason'}"
        )


def _remove_surplus_schedules(client: SyncPrefectClient, change: Change) -> None:
    """Prefect leaves schedules that a file no longer names."""
    if change.merged is None or change.existing is None:
        return
    deployment = client.read_deployment(change.existing.id)
    for key, schedule in schedules_of(deployment, change.entry.ours).items():
        if ("schedule", key) not in change.merged.table:
            client.delete_deployment_schedule(deployment.id, schedule.id)


def _tell(changes: Sequence[Change]) -> None:
    """What was created, updated and kept, in a line each; what is as it was, in a count."""
    unchanged = 0
    for change in changes:
        name, merged = change.entry.name, change.merged
        if merged is None:
            say(
                f"{name} was deleted by hand and stays away; "
                f"`visual-r1 deploy --reset {name}` creates it."
            )
            continue
        if change.existing is None:
            say(f"{name} created")
        elif merged.updated:
            say(f"{name} updated: {', '.join(map(as_text, merged.updated))}")
        elif change.is_due:
            say(f"{name} updated: its form")
        else:
            unchanged += 1
        if merged.kept:
            values = (_kept(path, merged.table, change.entry.ours) for path in merged.kept)
            say(f"{name} kept as set by hand: {', '.join(values)}")
    if unchanged:
        say(f"{unchanged} of {len(changes)} deployments are as they are shipped or were set.")


def _kept(path: tuple[str, ...], table: Table, ours: Table) -> str:
    """What a person set, and what is shipped in its place."""
    theirs = f"= {_shown(path, table)}" if path in table else "removed"
    return f"{as_text(path)} {theirs}" + (
        f" (shipped: {_shown(path, ours)})" if path in ours else ""
    )


def _shown(path: tuple[str, ...], table: Table) -> str:
    value = table[path]
    if path[0] != "schedule":
        return json.dumps(value, ensure_ascii=False)[:80]
    when = value.get("cron") or value.get("rrule") or f"every {value['interval']} s"
    return f"{when}, {'on' if value['active'] else 'off'}"
