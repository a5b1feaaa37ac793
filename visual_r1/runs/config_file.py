"""`config.json` of a run's folder: the resolved configuration that the run is made by."""

from pathlib import Path

from pydantic import ValidationError

from visual_r1.config import STORED, RunConfig
from visual_r1.errors import RunError
from visual_r1.storage import first_fault, read_sealed

CONFIG_FILE = "config.json"


def read_config(run_dir: Path) -> RunConfig | None:
    """The configuration of the run in `run_dir`; None where there is none yet.

    Raises `RunError` when the file cannot be understood.
    """
    path = run_dir / CONFIG_FILE
    if not path.exists():
        return None
    try:
        return RunConfig.model_validate(read_sealed(path).content, context=STORED)
    except (OSError, ValueError) as error:  # what pydantic raises is one of the latter
        fault = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise RunError(
            f"{path} is damaged or of another version of Visual R1 ({fault}): go on with the "
            "command that began the run, which writes it again where the ledger has a row, choose "
            "another --run.name, or remove that file if you are sure that its run had this "
            "configuration."
        ) from error
