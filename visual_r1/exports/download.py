"""The files of a checkpoint from a Tinker server, and whether they are an adapter at all.

Hosted sampler checkpoints cannot be downloaded, so the weights leave through a training client of
a training state: `save_weights_external`, then one signed URL a file.
"""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, cast

import httpx
from safetensors import SafetensorError, safe_open

from visual_r1.backend.backend import Backend
from visual_r1.backend.waiting import CONTROL_LIMIT_S, SAVE_LIMIT_S, call, wait
from visual_r1.errors import BackendError
from visual_r1.exports.record import ADAPTER_FILES
from visual_r1.progress import Progress
from visual_r1.storage import replaced_whole

DOWNLOAD_TIMEOUT_S = 120.0
# The copy on the server is only there to be downloaded, at once.
EXTERNAL_TTL_S = 3600


@contextmanager
def external_urls(backend: Backend, state_path: str) -> Generator[Mapping[str, str]]:
    """A URL for each file of the adapter, from a temporary client of a training state.

    What the server made for it is deleted behind the block.
    """
    with backend.session() as service:
        what = f"loading {state_path}"
        loading = call(
            lambda: service.create_training_client_from_state(state_path),
            what,
            CONTROL_LIMIT_S,
            backend.check,
        )
        client = wait(loading, what, SAVE_LIMIT_S, backend.check)
        saving = client.save_weights_external("adapter", ttl_seconds=EXTERNAL_TTL_S)
        path = wait(saving, "saving the adapter", SAVE_LIMIT_S, backend.check).path
        urls = urls_of(backend, path)
    try:
        yield urls
    finally:
        with suppress(BackendError):  # a server that keeps it ends it in an hour
            deletion = backend.rest.delete_checkpoint_from_tinker_path(path)
            wait(deletion, f"deleting {path}", CONTROL_LIMIT_S, backend.check)


def urls_of(backend: Backend, external_path: str) -> Mapping[str, str]:
    """The URLs of what was saved for other programs; raises `BackendError` where PEFT could not
    load it."""
    listing = backend.rest.get_external_weights_urls(external_path)
    what = f"the files of {external_path}"
    urls = wait(listing, what, CONTROL_LIMIT_S, backend.check).urls
    missing = [name for name in ADAPTER_FILES if name not in urls]
    if missing:
        raise BackendError(
            f"The server's export {external_path} lacks {' and '.join(missing)}; it has "
            f"{', '.join(sorted(urls)) or 'no files'}, which PEFT cannot load."
        )
    return urls


def download_all(urls: Mapping[str, str], folder: Path, progress: Progress) -> None:
    """Download each file of an export into `folder`. Raises `BackendError` and `StorageError`."""
    progress.start("export", len(urls), "files")
    for name, url in sorted(urls.items()):
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise BackendError(f"The server named a file {name!r} that lies outside the adapter.")
        _download(url, folder / relative)
        progress.advance()


def _download(url: str, path: Path) -> None:
    try:
        with (
            replaced_whole(path) as temporary,
            httpx.stream("GET", url, timeout=DOWNLOAD_TIMEOUT_S, follow_redirects=True) as reply,
            temporary.open("wb") as out,
        ):
            reply.raise_for_status()
            for block in reply.iter_bytes():
                out.write(block)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise BackendError(f"The server did not hand out {path.name} (status {status}).") from error
    except httpx.HTTPError as error:
        raise BackendError(f"The download of {path.name} broke off: {error}.") from error


def require_adapter(folder: Path) -> None:
    """Raise `BackendError` unless the folder holds a PEFT adapter whose files are whole."""
    config_path, weights_path = (folder / name for name in ADAPTER_FILES)
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        with cast("Any", safe_open)(weights_path, framework="numpy") as weights:
            names: list[str] = list(weights.keys())
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise BackendError(f"The adapter that the server sent is damaged: {error}.") from error
    is_lora = isinstance(config, dict) and cast("dict[str, Any]", config).get("peft_type") == "LORA"
    if not is_lora or not any("lora_A" in name for name in names):
        raise BackendError(
            f"The adapter that the server sent ({len(names)} tensors) is not a LoRA that PEFT "
            "can load."
        )
