"""The table of what the engine offers, against the SDK that is installed."""

import inspect
import re
from pathlib import Path

import pytest
import tinker
from packaging.version import Version

TABLE = (Path(__file__).parents[4] / "docs" / "engine.md").read_text(encoding="utf-8")
(TESTED,) = re.findall(r"`tinker` SDK \((\d+\.\d+)\)", TABLE)
CLIENTS = (
    tinker.ServiceClient,
    tinker.TrainingClient,
    tinker.SamplingClient,
    tinker.RestClient,
    tinker.AdminClient,
)


def named() -> dict[str, set[str]]:
    """The methods that the table names, by client."""
    found: dict[str, set[str]] = {}
    client = ""
    for line in TABLE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4:
            client = cells[0] or client
            found.setdefault(client, set()).update(re.findall(r"`(\w+)`", cells[1]))
    return found


def methods_of(client: type) -> set[str]:
    return {
        name
        for name, value in inspect.getmembers(client)
        if (inspect.isfunction(value) or isinstance(value, property))
        and not name.startswith("_")
        and not name.endswith("_async")
    }


def faults(methods: set[str], in_the_table: set[str], sdk: str) -> set[str]:
    """What the table must not say or leave out.

    All that it names is there. All that is there it names, of the SDK that was tested: what a newer
    one brings along nobody here can have tried.
    """
    newer = Version(sdk).release[:2] > Version(TESTED).release[:2]
    return (in_the_table - methods) | (set() if newer else methods - in_the_table)


@pytest.mark.parametrize("client", CLIENTS)
def test_every_public_method_is_in_the_table(client: type) -> None:
    assert not faults(methods_of(client), named()[client.__name__], tinker.__version__)


def test_what_a_newer_sdk_has_besides_is_no_fault_and_what_it_lacks_is() -> None:
    known = named()["RestClient"]
    assert not faults(known | {"search_checkpoints"}, known, "0.39.0")
    assert faults(known | {"search_checkpoints"}, known, f"{TESTED}.7") == {"search_checkpoints"}
    assert faults(known - {"get_session"}, known, "0.39.0") == {"get_session"}


def test_the_files_that_it_names_are_there() -> None:
    tests = Path(__file__).parents[3]
    there = {path.stem for path in tests.rglob("test_*.py")}
    files = set(re.findall(r"\btest_\w+", TABLE))
    assert len(files) > 5 and files <= there
