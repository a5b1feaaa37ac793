"""The register of an engine's home: which sessions made models, and which runs trained them."""

import threading
from pathlib import Path
from typing import Any

from visual_r1.engine.store.budget import unwritten
from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.store.records import RUN, SESSION, RunRecord, SessionRecord
from visual_r1.errors import StorageError
from visual_r1.storage import write_json


class Register:
    """Sessions and training runs, each in a file of its own. Safe to use from several threads.

    `home_flag` is the flag by which who uses this engine chooses another folder.
    """

    def __init__(self, home: HomeFolder, home_flag: str) -> None:
        self.home, self.home_flag = home, home_flag
        self._guard = threading.RLock()
        self._sessions: dict[str, SessionRecord] = {}
        self._runs: dict[str, RunRecord] = {}

    def read(self) -> None:
        """What the folder has of them. Raises `OSError`."""
        self._sessions = {one.session_id: one for one in self.home.read_sessions()}
        self._runs = {run.model_id: run for run in self.home.read_runs()}

    def put_session(self, record: SessionRecord) -> None:
        """Write a session down, or down again. Raises `StorageError`."""
        with self._guard:
            if self._sessions.get(record.session_id) != record:
                file = self.home.session_file(record.session_id)
                self.write_json(file, SESSION.dump_python(record, mode="json"))
                self._sessions[record.session_id] = record

    def update_session(self, record: SessionRecord) -> None:
        """Write it down again, if it ever was: one that made no model leaves nothing behind."""
        with self._guard:
            if record.session_id in self._sessions:
                self.put_session(record)

    def add_run(self, record: RunRecord) -> None:
        """Write a training run down. Raises `StorageError`."""
        with self._guard:
            content = RUN.dump_python(record, mode="json")
            self.write_json(self.home.run_file(record.model_id), content)
            self._runs[record.model_id] = record

    def sessions(self) -> list[SessionRecord]:
        """All sessions that made a model, newest first."""
        with self._guard:
            return sorted(self._sessions.values(), key=lambda s: s.created_at, reverse=True)

    def runs(self) -> list[RunRecord]:
        """All training runs, newest first."""
        with self._guard:
            return sorted(self._runs.values(), key=lambda run: run.created_at, reverse=True)

    def run(self, model_id: str) -> RunRecord | None:
        """The run of that id, if there is one."""
        with self._guard:
            return self._runs.get(model_id)

    def write_json(self, file: Path, content: Any) -> None:
        """Write a record whole. Raises `StorageError`."""
        try:
            write_json(file, content)
        except StorageError as error:
            # It advises a flag of the run's; the engine's folder has its own.
            cause = error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise unwritten(file, cause, self.home_flag) from cause
