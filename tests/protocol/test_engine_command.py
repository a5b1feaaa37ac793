"""`visual-r1 engine`: served by hand to any program on the machine."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from protocol_client import MODEL

ENGINE = "import sys; from flows.console import main; sys.exit(main(['engine', *sys.argv[1:]]))"

DOCS = Path(__file__).parents[2] / "docs" / "engine.md"


def program() -> str:
    """The program in the docs: all that it needs are the SDK and the two variables."""
    (found,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return found


def test_it_says_how_to_use_it_and_another_program_does(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TINKER_", "VISUAL_R1_ENGINE_"))
    }
    command = [sys.executable, "-c", ENGINE, "--home", str(home), "--threads", "1"]
    engine = subprocess.Popen(
        [*command, "--device", "cpu", "--max-disk", "1GB"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert engine.stdout is not None and engine.stderr is not None
    try:
        said = ""
        while "Ctrl-C" not in said:
            line = engine.stdout.readline()
            assert line, engine.stderr.read()
            said += line
        assert MODEL in said and str(home) in said and "1.0 GB" in said
        exported = dict(re.findall(r"export (\w+)=(\S+)", said))
        assert exported.keys() == {"TINKER_BASE_URL", "TINKER_API_KEY"}
        # No package but the SDK's own is imported: not even this repository is on the path.
        outside = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
        for _ in range(3):
            done = subprocess.run(
                [sys.executable, "-c", program()],
                cwd=elsewhere,
                env=outside | exported | {"TINKER_TELEMETRY": "0"},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            # The SDK's thread never ends: one that runs when Python does can abort the process.
            if done.returncode != -signal.SIGABRT:
                break
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"tinker://\w+:train:0/weights/done\n", done.stdout)
        taken = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert taken.returncode == 1 and taken.stderr.startswith("visual-r1 engine: another engine")
        engine.send_signal(signal.SIGINT)
        assert engine.wait(timeout=60) == 0
        assert "Traceback" not in engine.stderr.read()
        assert list(home.glob("sessions/*/train-0/weights/done"))
    finally:
        engine.kill()
        engine.wait()
        engine.stdout.close()
        engine.stderr.close()
