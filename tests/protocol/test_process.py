"""The engine as a process: how it starts, refuses to start, dies and comes back."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import tinker
from protocol_client import MODEL, datum, until
from tinker import types

from visual_r1.engine.launch import RunningEngine, begin_engine, start_engine
from visual_r1.errors import EngineError, EngineRefused


def run(*arguments: str, key: str = "tml-x") -> subprocess.CompletedProcess[str]:
    """Run `python -m visual_r1.engine` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "visual_r1.engine", *arguments],
        env=os.environ | {"VISUAL_R1_ENGINE_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence with which an engine refused to start."""
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "Traceback" not in line
    return line


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused(run("--port", port, "--home", str(tmp_path)))
        assert f"port {port}" in line and "--port" in line


def test_keys_of_the_wrong_form(tmp_path: Path) -> None:
    assert "VISUAL_R1_ENGINE_KEY" in refused(run("--home", str(tmp_path), key=""))
    assert "tml-" in refused(run("--home", str(tmp_path), key="secret"))
    assert "secret" not in refused(run("--home", str(tmp_path), "--api-key", "secret"))


def test_a_second_engine_on_one_home(engine: RunningEngine, home: Path) -> None:
    line = refused(run("--home", str(home)))
    assert str(home) in line and "another engine" in line


def test_a_home_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "--home" in refused(run("--home", str(tmp_path / "file" / "home")))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with pytest.raises(EngineError, match="nowhere") as caught:
        start_engine(tmp_path / "home", str(tmp_path / "nowhere"), 1, log, device="cpu")
    assert isinstance(caught.value, EngineRefused)
    assert "\n" not in str(caught.value)


def test_killed_and_started_again_it_has_every_finished_checkpoint(tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "engine.log"
    step = types.AdamParams(learning_rate=1e-2)
    first = start_engine(home, MODEL, 1, log, device="cpu")
    service = tinker.ServiceClient(base_url=first.url, api_key=first.api_key)
    client = service.create_lora_training_client(MODEL, rank=4, seed=1).result(timeout=60)
    client.forward_backward([datum()], "cross_entropy")
    client.optim_step(step).result(timeout=60)
    state = client.save_state("kept").result(timeout=60).path
    sampler = client.save_weights_for_sampler("kept").result(timeout=60).path
    prompt = datum().model_input
    drawn = service.create_sampling_client(model_path=sampler).result(timeout=60)
    scores = drawn.compute_logprobs(prompt).result(timeout=60)
    client.forward_backward([datum(scale=2)], "cross_entropy")
    metrics = client.optim_step(step).result(timeout=60).metrics
    after = client.save_state("after").result(timeout=60).path
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    # What a kill in the middle of writing leaves: a folder under a hidden name.
    kind = next(home.glob("sessions/*/train-0/weights"))
    (kind / ".half.0000.tmp").mkdir()
    (kind / ".half.0000.tmp" / "state.safetensors").write_bytes(b"half")
    (home / "ephemeral" / "old.safetensors").touch()
    first.close()

    with start_engine(home, MODEL, 1, log, device="cpu") as second:
        again = tinker.ServiceClient(base_url=second.url, api_key=second.api_key)
        rest = tinker.RestClient(base_url=second.url, api_key=second.api_key)
        listed = rest.list_user_checkpoints().result(timeout=60).checkpoints
        assert [one.tinker_path for one in listed] == [after, sampler, state]
        assert not list(kind.glob(".*")) and not list((home / "ephemeral").iterdir())
        assert [
            run.training_run_id for run in rest.list_training_runs().result().training_runs
        ] == [client.model_id]
        same = again.create_sampling_client(model_path=sampler).result(timeout=60)
        assert same.compute_logprobs(prompt).result(timeout=60) == scores
        resumed = again.create_training_client_from_state_with_optimizer(state).result(timeout=60)
        assert resumed.model_id != client.model_id
        resumed.forward_backward([datum(scale=2)], "cross_entropy")
        assert resumed.optim_step(step).result(timeout=60).metrics == metrics
        path = resumed.save_state("after").result(timeout=60).path
        files = [_state(home, one).read_bytes() for one in (after, path)]
        assert files[0] == files[1]
        again.close("success").result(timeout=60)
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(timeout=30) == 0
    # The client of the first engine has lost its server: nothing is left to close there.
    service.holder.close()


def _state(home: Path, path: str) -> Path:
    session, _, number = path.removeprefix("tinker://").split("/")[0].split(":")
    name = path.split("/")[-1]
    return home / "sessions" / session / f"train-{number}" / "weights" / name / "state.safetensors"


def test_the_engine_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; "
        "from visual_r1.engine.launch import start_engine; "
        f"running = start_engine(Path({str(tmp_path / 'home')!r}), {MODEL!r}, 1, "
        f"Path({str(tmp_path / 'log')!r}), device='cpu'); "
        "assert 'torch' not in sys.modules; "
        "print(running.url, running.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url, pid = parent.stdout.readline().split()
    assert httpx.get(f"{url}/api/v1/healthz", trust_env=False).status_code == 200
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not _alive(int(pid)))


def test_an_engine_that_is_cancelled_while_it_loads_ends(tmp_path: Path) -> None:
    starting = begin_engine(tmp_path / "home", MODEL, 1, tmp_path / "log", device="cpu")
    starting.cancel()
    assert starting._process.returncode is not None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_an_engine_waits_for_the_end_of_the_one_before_it(tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    first = begin_engine(home, MODEL, 1, log, device="cpu").ready()
    second = begin_engine(home, MODEL, 1, log, device="cpu")
    first.close()
    with second.ready() as running:
        assert running.url != ""
