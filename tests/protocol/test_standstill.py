"""An embedded engine that stands still is ended by who waits for it, and another one started."""

import os
import signal
import time
from pathlib import Path

import pytest

from visual_r1.backend import backend as module
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.errors import EngineError


def test_an_engine_that_stands_still_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    monkeypatch.setattr(module, "STANDS_STILL_S", 2.0)
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 1.0)
    config = RunConfig.model_validate({"preset": "quickstart", "output_dir": tmp_path})
    with open_backend(config) as backend:
        backend.begin()
        with backend.session():
            engine = backend._engine
            assert engine is not None
            # Idle for longer than that, it is still there: it answers.
            began = time.monotonic()
            while time.monotonic() - began < 3:
                backend.check()
                time.sleep(0.5)
            os.kill(engine.process.pid, signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(EngineError, match="stood still and was ended"):
                backend.sampler(None)
            assert time.monotonic() - began < 30
        with backend.session():
            assert backend._engine is not engine
            backend.sampler(None)
