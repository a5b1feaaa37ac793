"""What a flow is given, and what it means: a preset with overrides, or a whole configuration.

It comes from a form, a schedule, a command line or a program. What is wrong with it is said here,
in a sentence, and not by Prefect.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from tasks.keys import borrow_keys
from tasks.project_defaults import with_project_defaults
from tasks.runs import of_run
from visual_r1.config import DEFAULT_PRESET, RunConfig
from visual_r1.config.overrides import flat, whole, with_overrides
from visual_r1.doctor.preflight import require_sound
from visual_r1.errors import ConfigError
from visual_r1.models import TINY_GEOMETRY
from visual_r1.runs.nights import begun, newest_of_its_name
from visual_r1.runs.start import with_start
from visual_r1.sft.settings import require_reinforcement, supervised


def chosen_config(
    preset: str | None,
    overrides: Mapping[str, Any] | None,
    config: RunConfig | Mapping[str, Any] | None,
    *,
    run: str | None = None,
    begins: bool = False,
    supervises: bool = False,
    asks_server: bool = True,
) -> RunConfig:
    """The configuration that a flow's parameters mean; of `run`, where one is named, that run's.

    `begins` says that a run of it begins or goes on here: then `{date}` and `{n}` in its name and
    `train.more_steps` are settled, see `runs.nights`. Others whose flow `asks_server` get the
    newest run of that name. In a deployment the server is one that the parameters name.

    `supervises` says that the flow learns responses; without it, one that begins does not.

    Raises `ConfigError` where the parameters disagree, where one of them is wrong, and where a
    deployment names no server for a model that is not on this machine.
    """
    if (named := of_run(run, preset, overrides, config)) is not None:
        if asks_server:
            _require_named_again(named, overrides or {})
        config, overrides = named, None
    if config and overrides:
        raise ConfigError(
            "A flow takes a whole config, or overrides over a preset, and both are given: leave "
            "one of them out."
        )
    if isinstance(config, RunConfig):
        chosen = config
    elif config:
        chosen = whole(config, preset or None)
    else:
        given = flat(overrides or {}, "overrides")
        given = with_project_defaults(given) if is_deployment() else given
        chosen = with_overrides(preset or DEFAULT_PRESET, given)
    if asks_server:
        require_named_server(chosen)
        if is_deployment():
            chosen = on_its_own_server(chosen)
    if supervises:
        chosen = supervised(chosen)
    elif begins:
        chosen = require_reinforcement(chosen)
    chosen = with_start(chosen)
    borrow_keys(chosen)
    if not asks_server:
        return chosen
    if not begins:
        return newest_of_its_name(chosen)
    require_sound(chosen)  # a run that cannot be leaves no folder
    at_work = _flow_run()
    who, expected = (str(at_work.id), at_work.expected_start_time) if at_work else (None, None)
    return begun(chosen, who, expected)


def with_short_names(
    overrides: Mapping[str, Any] | None, named: Mapping[str, Any], short: Mapping[str, str]
) -> dict[str, Any]:
    """`overrides` with the settings that have parameters of their own; empty ones say nothing.

    `short` are the settings of those parameters. Raises `ConfigError` where both name a setting.
    """
    there = flat(overrides or {}, "overrides")
    given = {name: value for name, value in named.items() if value not in (None, "")}
    for parameter, name in short.items():
        if name in given and there.get(name, given[name]) != given[name]:
            raise ConfigError(
                f"{parameter} is {given[name]!r}, and overrides give {name} {there[name]!r}: leave "
                "one of them out."
            )
    return there | given


def is_deployment() -> bool:
    """Whether somebody else's process, a worker's, runs this flow; a run called by it as well."""
    # Set by Prefect's runner for the process that it starts.
    run = _flow_run()
    return "PREFECT__FLOW_RUN_ID" in os.environ or bool(run and run.deployment_id)


def require_named_server(config: RunConfig) -> None:
    """Raise `ConfigError`, with the override to give, where a deployment asks for no server.

    A key or an address in a worker's environment is no wish to spend money: whoever schedules a
    run says so in its parameters. The embedded engine needs no words where the model is here.
    """
    model = config.model.name
    if not is_deployment() or _names_server(config):
        return
    if model != TINY_GEOMETRY and not Path(model).is_dir():
        raise ConfigError(
            f"Preset {config.preset} with model {model} needs a Tinker server, and a deployment "
            "uses one that costs money only where its parameters name it: give overrides "
            '{"backend.server": "remote"} for the hosted service or the address in the worker\'s '
            'TINKER_BASE_URL, {"backend.base_url": "http://host:port"} for a server of your own, '
            'or {"backend.server": "embedded"} to load the model on this machine.'
        )


def _require_named_again(config: RunConfig, overrides: Mapping[str, Any]) -> None:
    """What a run was trained on is no parameter of a deployment that asks something of it now."""
    backend, said = config.backend, flat(overrides, "overrides")
    is_said = said.get("backend.server", "auto") != "auto" or said.get("backend.base_url")
    if not is_deployment() or is_said or backend.server == "embedded" or not _names_server(config):
        return
    server = f"the server at {backend.base_url}" if backend.base_url else "the hosted service"
    raise ConfigError(
        f"The run {config.run_name} was trained on {server}, and a deployment uses a server that "
        "costs money only where its parameters name it: give overrides "
        '{"backend.server": "remote"} to use that one again.'
    )


def _names_server(config: RunConfig) -> bool:
    return config.backend.server != "auto" or bool(config.backend.base_url)


def on_its_own_server(config: RunConfig) -> RunConfig:
    """`config` with the embedded engine where it names no server, whatever the environment says."""
    if _names_server(config):
        return config
    embedded = config.backend.model_copy(update={"server": "embedded"})
    return config.model_copy(update={"backend": embedded})


def _flow_run() -> FlowRun | None:
    context = FlowRunContext.get()
    return context.flow_run if context else None
