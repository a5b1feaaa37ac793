"""The table of what the engine offers, against the SDK that is installed."""

import inspect
import re
from pathlib import Path

import pytest
import tinker

TABLE = (Path(__file__).parents[4] / "docs" / "engine.md").read_text(encoding="utf-8")
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


@pytest.mark.parametrize("client", CLIENTS)
def test_every_public_method_is_in_the_table(client: type) -> None:
    methods = {
        name
        for name, value in inspect.getmembers(client)
        if (inspect.isfunction(value) or isinstance(value, property))
        and not name.startswith("_")
        and not name.endswith("_async")
    }
    assert methods == named()[client.__name__]


def test_the_files_that_it_names_are_there() -> None:
    tests = Path(__file__).parents[3]
    there = {path.stem for path in tests.rglob("test_*.py")}
    files = set(re.findall(r"\btest_\w+", TABLE))
    assert len(files) > 5 and files <= there
