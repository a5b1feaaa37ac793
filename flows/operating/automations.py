"""`visual-r1 automations`: what is in `deployments/automations`, with what people changed since."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.variables import Variable
from pydantic import ValidationError

from flows.operating.project import DEPLOYMENTS
from visual_r1.errors import ConfigError
from visual_r1.hashing import content_digest
from visual_r1.printing import say

REMEMBERED = "visual_r1_shipped_automations"
"""A variable on the server: for each name the digests of what was shipped and of what it became."""

ALERTS = "visual-r1-alerts"
"""The notification block that automations write to; the user makes it."""

PLACEHOLDER = "{{ " + ALERTS + " }}"


def create_automations(root: Path, reset: Collection[str] = ()) -> None:
    """Create and update the automations of `root`, and say what was kept as people left it.

    Those named in `reset` become what is shipped.

    Raises:
        ConfigError: a file, or a name in `reset`, is wrong.
    """
    shipped = list(_shipped(root / DEPLOYMENTS / "automations"))
    if unknown := set(reset) - {one["name"] for one in shipped}:
        names = ", ".join(repr(one["name"]) for one in shipped)
        raise ConfigError(
            f"There is no automation {', '.join(sorted(unknown))}: there are {names}."
        )
    with get_client(sync_client=True) as client:
        remembered: Any = Variable.get(REMEMBERED) or {}
        before = dict(remembered)
        block = _alerts_block(client)
        waiting: list[str] = []
        for content in shipped:
            name = content["name"]
            if PLACEHOLDER in json.dumps(content):
                if block is None:
                    waiting.append(name)
                    continue
                content = json.loads(json.dumps(content).replace(PLACEHOLDER, block))
            last = None if name in reset else remembered.get(name)
            now = _settle(client, content, last, resets=name in reset)
            if now is not None:
                remembered[name] = now
        if remembered != before:
            Variable.set(REMEMBERED, remembered, overwrite=True)
    if waiting:
        say(
            f"Nobody is told of {len(waiting)} kinds of events: `visual-r1 secrets set "
            f"notification-url` names a webhook, or make any notification block called {ALERTS} in "
            "the UI, and give `visual-r1 automations` again."
        )


def _shipped(folder: Path) -> Iterator[dict[str, Any]]:
    """The automations of all files, in Prefect's own form."""
    for path in sorted(folder.glob("*.yaml")):
        try:
            content: Any = yaml.safe_load(path.read_text())
            listed = content.get("automations", [content])
            for one in listed:
                test = json.loads(json.dumps(one).replace(PLACEHOLDER, f"{0:032x}"))
                AutomationCore.model_validate(test)
                yield one
        except (OSError, yaml.YAMLError, AttributeError, TypeError, ValidationError) as error:
            raise ConfigError(f"{path} is no automation of Prefect's: {error}.") from error


def _settle(
    client: SyncPrefectClient, content: dict[str, Any], last: list[str] | None, *, resets: bool
) -> list[str] | None:
    """Create, update or leave one; what is to be remembered of it, None where nothing is new."""
    ours = AutomationCore.model_validate(content)
    name, digest = ours.name, _digest(ours)
    existing = next(iter(client.read_automations_by_name(name)), None)
    if existing is None:
        if last is not None and not resets:
            say(f"automation {name!r} was deleted by hand and stays away; --reset creates it.")
            return None
        client.create_automation(ours)
        say(f"automation {name!r} created")
    elif resets or (last is not None and last[0] != digest and last[1] == _digest(existing)):
        # Whether it is switched on is a person's own affair.
        on = ours.enabled if resets else existing.enabled
        client.update_automation(
            existing.id, AutomationCore.model_validate(content | {"enabled": on})
        )
        say(f"automation {name!r} updated")
    else:
        if last is None or last[1] != _digest(existing):
            say(f"automation {name!r} kept as set by hand")
        elif existing.enabled != ours.enabled:
            say(f"automation {name!r} kept {'on' if existing.enabled else 'off'} as set by hand")
        return None
    made = next(iter(client.read_automations_by_name(name)), None)
    return [digest, _digest(made) if made else ""]


def _digest(automation: AutomationCore | Automation) -> str:
    """Of all but whether it is switched on."""
    content = automation.model_dump(mode="json", exclude={"id", "enabled", "created", "updated"})
    return content_digest(json.dumps(_steady(content), sort_keys=True).encode())[:12]


def _steady(value: Any) -> Any:
    """Without what differs each time: a trigger's own id, and the order of a set of names."""
    if isinstance(value, dict):
        return {name: _steady(part) for name, part in value.items() if name != "id"}
    if isinstance(value, list):
        parts = [_steady(part) for part in value]
        return sorted(parts) if all(isinstance(part, str) for part in parts) else parts
    return value


def _alerts_block(client: SyncPrefectClient) -> str | None:
    """The id of the notification block that the user made, of whatever type."""
    for document in client.read_block_documents(include_secrets=False):
        schema = document.block_schema
        if document.name == ALERTS and schema and "notify" in schema.capabilities:
            return str(document.id)
    return None
