"""An export to the Hugging Face hub: a private repository, in one commit, with its card."""

from collections.abc import Sequence
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, cast

import httpx
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from visual_r1.errors import ConfigError, StorageError
from visual_r1.exports.record import CARD_NAME, MERGED, RECORD_NAME, Export
from visual_r1.models import TINY_GEOMETRY, hub_id, model_path
from visual_r1.secrecy import keep_secret

_NOTHING_LOST = (
    "Nothing is lost: the export is in {place}, and the same command can be given again."
)


def require_hub(repository: str) -> None:
    """Raise `ConfigError` where nothing could be pushed: no such name, or no token."""
    try:
        validate_repo_id(repository)
        sound = repository.count("/") == 1
    except HFValidationError:
        sound = False
    if not sound:
        raise ConfigError(
            f"--push {repository!r} is no repository of the hub: give OWNER/NAME, of letters, "
            "digits, dots, dashes and underscores."
        )
    if token := get_token():
        keep_secret(token)
    else:
        raise ConfigError(
            "--push needs a token of the Hugging Face hub that may write: set HF_TOKEN, or log in "
            "with `hf auth login`; nothing was asked of any server."
        )


def push(place: Path, made: Export, repository: str) -> str:
    """Upload the full model where there is one, else the adapter, with card and record; its URL.

    The repository is made where it is not there, private. What the reference holds (the figures of
    problems) stays here. Raises `ConfigError` where the token may not, `StorageError` where the hub
    fails.
    """
    files: list[tuple[str, Path]] = [
        (name, place / name) for name in (CARD_NAME, RECORD_NAME) if (place / name).is_file()
    ]
    if made.merged is not None:
        files += [(one.name, place / MERGED / one.name) for one in made.merged.files]
    else:
        files += [(one.name, place / made.adapter / one.name) for one in made.files]
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        done = api.create_commit(
            repository,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files],
            commit_message=f"Step {made.step} of {made.base_model}, exported by Visual R1",
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise ConfigError(
                f"The hub does not let this token write {repository} (status {status}): give one "
                f"that may, or another OWNER. {_NOTHING_LOST.format(place=place)}"
            ) from error
        raise _failed(repository, place, error) from error
    except (httpx.HTTPError, OfflineModeIsEnabled, OSError, ValueError, RuntimeError) as error:
        raise _failed(repository, place, error) from error
    return str(done.repo_url)


def _failed(repository: str, place: Path, error: Exception) -> StorageError:
    why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return StorageError(
        f"{repository} could not be pushed: {why}. {_NOTHING_LOST.format(place=place)}"
    )


def licence_of(base_model: str, *, ask: bool = False) -> str | None:
    """The licence of a base model, as the hub writes licences; None where nobody here knows.

    By the front matter of its README where it is a folder, else, with `ask`, by its page.
    """
    path = model_path(base_model)
    if hub_id(base_model) == TINY_GEOMETRY:
        return str(metadata("visual-r1")["License-Expression"]).lower()
    try:
        if Path(path).is_dir():
            readme = Path(path) / "README.md"
            found: Any = ModelCard.load(readme).data if readme.is_file() else None
        else:
            found = HfApi().model_info(path).card_data if ask else None
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError):
        return None
    licence = getattr(found, "license", None)
    if isinstance(licence, Sequence) and not isinstance(licence, str):
        licence = next(iter(cast("Sequence[str]", licence)), None)
    return str(licence) if licence else None
