"""The runs' pages: to this machine's browser, and no file but a report's."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flows.operating.pages import pages


@pytest.fixture
def browser(tmp_path: Path) -> TestClient:
    for name in ("older", "<b>new"):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "ledger.jsonl").write_text("{}\n")
        (run / "report.html").write_text(f"the report of {name}")
        (run / "config.json").write_text("{}")
    (tmp_path / "secret.html").write_text("elsewhere")
    (tmp_path / "runs/older/link.html").symlink_to(tmp_path / "secret.html")
    return TestClient(pages(tmp_path / "runs"), base_url="http://127.0.0.1")


def test_runs_are_listed_and_their_reports_shown(browser: TestClient) -> None:
    page = browser.get("/").text
    assert "&lt;b&gt;new" in page
    assert "<b>new" not in page
    assert browser.get("/runs/older/report.html").text == "the report of older"


@pytest.mark.parametrize(
    "path",
    [
        "/runs/older/config.json",
        "/runs/older/ledger.jsonl",
        "/runs/older/link.html",
        "/runs/%2e%2e/secret.html",
        "/runs/older/missing.html",
        "/runs/older",
    ],
)
def test_nothing_else_is(browser: TestClient, path: str) -> None:
    assert browser.get(path).status_code == 404


def test_a_site_that_calls_itself_this_machine_is_refused(browser: TestClient) -> None:
    assert browser.get("/", headers={"Host": "evil.example"}).status_code == 400
