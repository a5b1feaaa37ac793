"""What is taken from where: the settings of Tinker, W&B and the hub, each by its tool's own chain.

A line each, and no secret in any: where a key is from, never the key.
"""

from collections.abc import Mapping

import huggingface_hub
from huggingface_hub import constants

from visual_r1.backend.endpoint import choose_kind, without_secrets
from visual_r1.config import RunConfig
from visual_r1.doctor.checks import Diagnosis
from visual_r1.errors import ConfigError
from visual_r1.report.wandb_service import chosen_mode


def tool_settings(config: RunConfig, environ: Mapping[str, str]) -> list[Diagnosis]:
    """How each tool is set, and what says so."""
    return [
        Diagnosis("ok", "Tinker's settings", _tinker(config, environ)),
        _wandb(config),
        Diagnosis("ok", "hub's settings", _hub(environ)),
    ]


def _tinker(config: RunConfig, environ: Mapping[str, str]) -> str:
    kind = choose_kind(config, environ)
    if kind == "embedded":
        asked = config.backend.server == "embedded"
        why = "backend.server asks for it" if asked else "no key and no address is set"
        return f"the embedded engine: {why}"
    key = "the key in TINKER_API_KEY" if environ.get("TINKER_API_KEY") else "no key"
    if config.backend.base_url:
        return f"{without_secrets(config.backend.base_url)} from backend.base_url, {key}"
    if url := environ.get("TINKER_BASE_URL"):
        return f"{without_secrets(url)} from TINKER_BASE_URL, {key}"
    return f"the hosted service, {key}"


def _wandb(config: RunConfig) -> Diagnosis:
    if (told := config.logging.told) != "wandb":
        why = "logging.wandb" if config.logging.tracker == "auto" else f"logging.tracker {told}"
        return Diagnosis("ok", "W&B's settings", f"off by {why}")
    try:
        mode, source = chosen_mode()
    except ConfigError as error:
        # Tracking never ends a run.
        return Diagnosis("warning", "W&B's settings", str(error))
    return Diagnosis("ok", "W&B's settings", f"{mode}: {source}")


def _hub(environ: Mapping[str, str]) -> str:
    names = ("HF_HOME", "XDG_CACHE_HOME")
    home = next((name for name in names if environ.get(name)), "the hub's default")
    tokens = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    token = next((name for name in tokens if environ.get(name)), constants.HF_TOKEN_PATH)
    found = f"the token in {token}" if huggingface_hub.get_token() else "no token"
    offline = "; offline by HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
    return f"files in {constants.HF_HOME} ({home}), {found}{offline}"
