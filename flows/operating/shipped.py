"""A deployment as it was shipped last, as it is on the server, and as it is shipped now.

Each is a flat table of what a person may change in the UI or by `prefect`: parameters and the
overrides among them one by one, each schedule, tags, description, limit, job variables. A value
that differs from what was shipped last is a person's, and stays; any other follows what is shipped
now. What was shipped last is remembered as a digest a value.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

from visual_r1.hashing import content_digest

Path = tuple[str, ...]
Table = dict[Path, Any]

_MISSING = object()
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Merged:
    """What a deployment is to be, which values are a person's, and which follow what is shipped."""

    table: Table
    kept: tuple[Path, ...]
    updated: tuple[Path, ...]


def merge(ours: Table, theirs: Table, base: Mapping[str, str] | None) -> Merged:
    """Values of `theirs` that a person set, over `ours`.

    `base` are the digests of what was shipped last. Without it nobody knows who set what, and all
    that is on the server stays.
    """
    table: Table = {}
    kept: list[Path] = []
    updated: list[Path] = []
    for path in dict.fromkeys([*ours, *theirs]):
        our, their = ours.get(path, _MISSING), theirs.get(path, _MISSING)
        if digest(our) == digest(their):
            value = their
        elif base is not None and digest(their) == base.get(as_text(path), digest(_MISSING)):
            value = our
            updated.append(path)
        else:
            value = their
            kept.append(path)
        if value is not _MISSING:
            table[path] = value
    return Merged(table, tuple(kept), tuple(updated))


def digests(ours: Table) -> dict[str, str]:
    """What is remembered of what is shipped."""
    return {as_text(path): digest(value) for path, value in ours.items()}


def digest(value: Any) -> str:
    """What tells one value from another; an interval's first moment is nobody's choice."""
    if value is _MISSING:
        return ""
    if isinstance(value, dict):
        value = {key: part for key, part in value.items() if key != "anchor_date"}
    text = json.dumps(value, sort_keys=True, default=str)
    return content_digest(text.encode())[:_DIGITS]


def as_text(path: Path) -> str:
    """The path for a person: `overrides train.steps`, `schedule nightly`."""
    return " ".join(path)


def table_of_entry(entry: Mapping[str, Any]) -> Table:
    """What an entry of `prefect.yaml`, templates resolved, says of all this."""
    pool: Mapping[str, Any] = entry.get("work_pool") or {}
    table = _common(entry.get("parameters") or {}, pool.get("job_variables") or {})
    for number, schedule in enumerate(entry.get("schedules") or (), start=1):
        slug = schedule.get("slug") or f"shipped-{number}"
        table["schedule", slug] = _schedule(schedule)
    if entry.get("description"):  # else Prefect takes the flow's
        table["description",] = entry["description"]
    table["tags",] = sorted(entry.get("tags") or ())
    limit = entry.get("concurrency_limit")
    if isinstance(limit, dict):
        table["concurrency limit",] = dict(limit)
    else:
        table["concurrency limit",] = None if limit is None else {"limit": limit}
    table["work pool",] = pool.get("name")
    if pool.get("work_queue_name"):
        table["work queue",] = pool["work_queue_name"]
    table["paused",] = bool(entry.get("paused"))
    return table


def table_of_deployment(deployment: DeploymentResponse, ours: Table) -> Table:
    """The same of a deployment on the server, in as far as a person or `ours` has to do with it."""
    table = _common(deployment.parameters, deployment.job_variables)
    for key, schedule in schedules_of(deployment, ours).items():
        table["schedule", key] = _as_entry(schedule)
    if ("description",) in ours:
        table["description",] = deployment.description
    table["tags",] = sorted(deployment.tags)
    limit = deployment.global_concurrency_limit
    options = deployment.concurrency_options
    table["concurrency limit",] = None
    if limit is not None:
        more = options.model_dump(mode="json", exclude_none=True) if options else {}
        table["concurrency limit",] = {"limit": limit.limit} | more
    table["work pool",] = deployment.work_pool_name
    if ("work queue",) in ours:
        table["work queue",] = deployment.work_queue_name
    table["paused",] = deployment.paused
    return table


def schedules_of(deployment: DeploymentResponse, ours: Table) -> dict[str, DeploymentSchedule]:
    """Its schedules by their slugs.

    One without a slug is of the UI, or of an older version: then it is the one of `ours` that fires
    at the same times.
    """
    found = {schedule.slug: schedule for schedule in deployment.schedules if schedule.slug}
    for schedule in deployment.schedules:
        if schedule.slug:
            continue
        times = _times(_as_entry(schedule))
        same = [
            path[1]
            for path, value in ours.items()
            if path[0] == "schedule" and path[1] not in found and _times(value) == times
        ]
        found[same[0] if same else f"of the UI {times}"] = schedule
    return found


def as_entry(table: Table, entry: Mapping[str, Any], theirs: Table | None) -> dict[str, Any]:
    """An entry of `prefect.yaml` that makes the deployment what `table` says.

    Schedules that are as they should be are left out: Prefect then leaves them alone.
    """
    pool: dict[str, Any] = {"name": table.get(("work pool",))}
    parameters: dict[str, Any] = {}
    schedules: list[dict[str, Any]] = []
    if "overrides" in (entry.get("parameters") or {}):
        parameters["overrides"] = {}
    for path, value in table.items():
        match path:
            case ("parameter", name):
                parameters[name] = value
            case ("overrides", name):
                parameters.setdefault("overrides", {})[name] = value
            case ("job variable", name):
                pool.setdefault("job_variables", {})[name] = value
            case ("environment", name):
                pool.setdefault("job_variables", {}).setdefault("env", {})[name] = value
            case ("schedule", name):
                slug = {} if name.startswith("of the UI") else {"slug": name}
                schedules.append(value | slug)
            case _:
                pass
    if queue := table.get(("work queue",)):
        pool["work_queue_name"] = queue
    made = dict(entry) | {
        "parameters": parameters,
        "work_pool": pool,
        "tags": table.get(("tags",), []),
        "paused": table.get(("paused",), False),
        "concurrency_limit": table.get(("concurrency limit",)),
        "schedules": schedules,
    }
    if ("description",) in table:
        made["description"] = table["description",]
    if theirs is not None and _schedules(theirs) == _schedules(table):
        del made["schedules"]
    return made


def _common(parameters: Mapping[str, Any], job_variables: Mapping[str, Any]) -> Table:
    table: Table = {}
    for name, value in parameters.items():
        if name == "overrides":
            table |= {("overrides", key): part for key, part in (value or {}).items()}
        else:
            table["parameter", name] = value
    for name, value in job_variables.items():
        if name == "env":
            table |= {("environment", key): part for key, part in (value or {}).items()}
        else:
            table["job variable", name] = value
    return table


def _schedules(table: Table) -> dict[Path, str]:
    return {path: digest(value) for path, value in table.items() if path[0] == "schedule"}


def _schedule(given: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule of `prefect.yaml` with what Prefect assumes where it says nothing."""
    made: dict[str, Any] = {
        name: given[name]
        for name in ("cron", "interval", "rrule", "anchor_date")
        if given.get(name) is not None
    }
    made["timezone"] = given.get("timezone") or "UTC"
    if given.get("day_or") is False:
        made["day_or"] = False
    if given.get("parameters"):
        made["parameters"] = dict(given["parameters"])
    return made | {"active": given.get("active", True) is not False}


def _as_entry(schedule: DeploymentSchedule) -> dict[str, Any]:
    when = schedule.schedule
    given: dict[str, Any] = {"timezone": getattr(when, "timezone", None), "active": schedule.active}
    match when:
        case CronSchedule():
            given |= {"cron": when.cron, "day_or": when.day_or}
        case IntervalSchedule():
            seconds = when.interval.total_seconds()
            given["interval"] = int(seconds) if seconds.is_integer() else seconds
            given["anchor_date"] = str(when.anchor_date)
        case RRuleSchedule():
            given["rrule"] = when.rrule
    return _schedule(given | {"parameters": schedule.parameters})


def _times(schedule: Mapping[str, Any]) -> str:
    return " ".join(
        str(schedule[k]) for k in ("cron", "interval", "rrule", "timezone") if k in schedule
    )
