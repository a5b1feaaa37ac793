"""Signed URLs under which the files of an external checkpoint can be fetched without the key."""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from visual_r1.engine.naming import CheckpointPath, checkpoint_path
from visual_r1.engine.requests import InvalidRequest
from visual_r1.engine.store import CheckpointNotFound, Store

VALID_FOR = timedelta(hours=1)
PREFIX = "/api/v1/download"


class BadSignature(InvalidRequest):
    """A download URL was changed, has expired, or is of an earlier run of the engine."""


class Downloads:
    """Makes and checks the URLs. The secret lives as long as the process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._secret = secrets.token_bytes(32)

    def urls(self, path: CheckpointPath, base_url: str) -> tuple[dict[str, str], datetime]:
        """A URL for each file of an external checkpoint, and when they end."""
        if path.kind != "external_weights":
            raise InvalidRequest(
                f"{path} cannot be downloaded: save_weights_external makes what can be."
            )
        record = self._store.find(path)
        expires = self._store.clock() + VALID_FOR
        stamp = int(expires.timestamp())
        urls = {
            name: f"{base_url.rstrip('/')}{PREFIX}/{quote(path.model_id)}/{quote(path.name)}/"
            f"{quote(name)}?expires={stamp}&signature={self._signature(path, name, str(stamp))}"
            for name in record.files
        }
        return urls, datetime.fromtimestamp(stamp, UTC)

    def file(self, model_id: str, name: str, file: str, expires: str, signature: str) -> Path:
        """The file behind a URL. Raises `BadSignature` or `CheckpointNotFound`."""
        path = checkpoint_path(model_id, "external_weights", name)
        if not expires or not signature:
            raise BadSignature(
                "this download URL is not whole: what follows its ?, expires and signature, is "
                "missing; quote it in a shell, or ask for the URLs again."
            )
        expected = self._signature(path, file, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise BadSignature("this download URL is not valid; ask for the URLs again.")
        if self._store.clock().timestamp() > int(expires):  # signed, so it is a number of ours
            raise BadSignature("this download URL has expired; ask for the URLs again.")
        if file not in self._store.find(path).files:
            raise CheckpointNotFound(f"{path} has no file {file!r}.")
        return self._store.folder(path) / file

    def _signature(self, path: CheckpointPath, file: str, expires: str) -> str:
        text = f"{path}\n{file}\n{expires}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
