"""What was billed, asked with the real SDK of a small server that speaks its wire."""

import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from tinker import types

from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.errors import CredentialError
from visual_r1.prices import Prices, Tokens
from visual_r1.runs.bill import BILL_NAME, ask_bill, bill_of, read_bill, settle_bill
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.stored import stored_of

MAY, MAY_NOT = "tml-may-see-the-bill", "tml-may-not"
HOUR = datetime(2026, 11, 20, 10, tzinfo=UTC)


def event(session: str | None, usd: float | None, info: Any) -> types.BillingUsageEvent:
    return types.BillingUsageEvent(
        bucket_start=HOUR,
        bucket_end=HOUR + timedelta(hours=1),
        base_model="Qwen/Qwen3.5-4B",
        session_id=session,
        estimated_cost_usd=usd,
        event_info=info,
    )


TOLD = types.BillingUsageResponse(
    data=[
        event("mine", 1.25, types.TrainingBillingEvent(token_count=1000)),
        event("mine", 0.5, types.SamplingPrefillBillingEvent(cached=False, token_count=300)),
        event("mine", 0.25, types.SamplingPrefillBillingEvent(cached=True, token_count=900)),
        event("later", None, types.SamplingSampleBillingEvent(token_count=40)),
        event("mine", None, types.CheckpointBillingEvent(count=2)),
        event("other", 99.0, types.TrainingBillingEvent(token_count=7)),
        event(None, 3.0, types.StorageBillingEvent(gigabyte_hours=5.0)),
    ],
    sessions={
        "mine": types.BillingUsageSession(user_metadata={"run": "angles"}),
        "later": types.BillingUsageSession(user_metadata={"run": "angles"}),
        "other": types.BillingUsageSession(user_metadata={"run": "lines"}),
    },
)


class Service(BaseHTTPRequestHandler):
    """The calls that a bill takes, with the SDK's own types."""

    asked: ClassVar[list[tuple[datetime, datetime]]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        known = self.path == "/api/v1/client/config"
        self._answer(200 if known else 404, {} if known else {"detail": "no such call"})

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        assert url.path == "/api/v1/billing/usage/events", self.path
        if self.headers["X-API-Key"] != MAY:
            self._answer(403, {"detail": "Requires billing view access."})
            return
        asked = types.GetBillingUsageRequest.model_validate(
            {name: value for name, [value] in parse_qs(url.query).items()}
        )
        Service.asked.append((asked.starting_on, asked.ending_before))
        there = asked.starting_on <= HOUR < asked.ending_before
        told = TOLD if there else types.BillingUsageResponse(data=[])
        self._answer(200, told.model_dump(mode="json"))

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    config = RunConfig.model_validate(
        {"output_dir": tmp_path, "run": {"name": "angles"}, "backend": {"server": "remote"}}
    )
    config.run_dir.mkdir(parents=True)
    began = config.run_dir / "config.json"
    began.write_text("{}")
    then = (HOUR - timedelta(days=20)).timestamp()
    os.utime(began, (then, then))
    return config


def backend(config: RunConfig, url: str, key: str) -> Backend:
    return Backend(config, {"TINKER_BASE_URL": url, "TINKER_API_KEY": key})


def test_the_bill_of_a_run_is_that_of_its_sessions(config: RunConfig, url: str) -> None:
    Service.asked.clear()
    bill = ask_bill(config, backend(config, url, MAY), now=HOUR + timedelta(minutes=90))
    assert bill is not None
    assert bill == read_bill(config.run_dir)
    assert bill.usd == pytest.approx(2.0)
    assert bill.unpriced == 1
    assert bill.tokens == Tokens(prefill=300, sample=40, train=1000, cached=900)
    # Full hours, no more than fourteen days at once, from before the run's first file until now.
    assert Service.asked[0][0] <= HOUR - timedelta(days=20)
    assert Service.asked[-1][1] == HOUR + timedelta(hours=2)
    for (start, end), following in zip(Service.asked, [*Service.asked[1:], None], strict=True):
        assert timedelta(0) < end - start <= timedelta(days=14)
        assert (start.minute, start.second, end.minute) == (0, 0, 0)
        assert following is None or following[0] == end


def test_a_key_that_may_not_see_it_costs_a_sentence(
    config: RunConfig, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = backend(config, url, MAY_NOT)
    with pytest.raises(CredentialError, match="does not accept the key for the question what was"):
        ask_bill(config, server)

    def said() -> list[str]:
        return [one.message for one in caplog.records if one.name.startswith("visual_r1")]

    settle_bill(config, server)  # another server need not tell
    assert not said()
    server.kind = "hosted"
    settle_bill(config, server)
    [sentence] = said()
    assert "The actual bill is not shown beside the estimate" in sentence
    assert not (config.run_dir / BILL_NAME).exists()


def test_a_bill_that_knows_nothing_of_the_run_yet_is_none(config: RunConfig) -> None:
    assert bill_of("another", [TOLD], HOUR) is None


def test_what_expires_is_paid_until_then_and_what_stays_by_the_month() -> None:
    def checkpoint(size: int | None, days: float | None) -> types.Checkpoint:
        return types.Checkpoint(
            checkpoint_id="weights/a",
            checkpoint_type="training",
            time=HOUR,
            tinker_path="tinker://a:train:0/weights/a",
            size_bytes=size,
            expires_at=None if days is None else HOUR + timedelta(days=days),
        )

    there = [checkpoint(2 * 10**9, 15), checkpoint(10**9, None), checkpoint(None, None)]
    found = stored_of(there, Prices(storage=0.10), HOUR)
    assert (found.checkpoints, found.bytes) == (3, 3 * 10**9)
    assert found.usd == pytest.approx(0.10 * 2 * 15 * 24 / 720)
    assert found.usd_a_month == pytest.approx(0.10)
    assert str(found) == (
        "3.00 GB in 3 checkpoints: $0.10 until they expire, $0.10 a month for what stays"
    )
    assert str(stored_of(there, Prices(), HOUR)) == "3.00 GB in 3 checkpoints"


def ledger_of(config: RunConfig, *made: datetime) -> None:
    """Checkpoints that were made then."""
    ledger = Ledger(config.run_dir)
    for step, when in enumerate(made, 1):
        ledger.append(
            LedgerRow(
                step=step,
                state_path=f"tinker://a:train:0/weights/{step}",
                sampler_path=f"tinker://a:train:0/sampler_weights/{step}",
                expires_at=None,
                config_digest="c",
                dataset_digest="d",
                backend="hosted",
                created_at=when.isoformat(timespec="seconds"),
                updates=step,
            )
        )


def dated(config: RunConfig, when: datetime) -> None:
    """All files of the run have this date, as after a copy."""
    for path in config.run_dir.rglob("*"):
        os.utime(path, (when.timestamp(), when.timestamp()))


def test_a_run_that_was_copied_has_the_whole_bill(config: RunConfig, url: str) -> None:
    now = HOUR + timedelta(days=9)
    ledger_of(config, HOUR + timedelta(hours=2), HOUR + timedelta(days=1))
    dated(config, now - timedelta(hours=1))
    Service.asked.clear()
    bill = ask_bill(config, backend(config, url, MAY), now=now)
    assert bill is not None
    assert bill.usd == pytest.approx(2.0)
    assert len(Service.asked) == 1


def test_checkpoints_that_were_set_aside_were_paid_as_well(config: RunConfig, url: str) -> None:
    now = HOUR + timedelta(days=29)
    ledger_of(config, HOUR + timedelta(hours=2))
    Ledger(config.run_dir).go_back_to(0)
    ledger_of(config, now - timedelta(days=1))
    dated(config, now)
    bill = ask_bill(config, backend(config, url, MAY), now=now)
    assert bill is not None
    assert bill.usd == pytest.approx(2.0)


@pytest.mark.parametrize(
    "odd", [datetime(1980, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)]
)
def test_an_odd_date_of_a_file_asks_nothing_more(
    config: RunConfig, url: str, odd: datetime
) -> None:
    now = HOUR + timedelta(days=2)
    ledger_of(config, HOUR + timedelta(hours=2))
    dated(config, HOUR)
    os.utime(config.run_dir / "config.json", (odd.timestamp(), odd.timestamp()))
    Service.asked.clear()
    bill = ask_bill(config, backend(config, url, MAY), now=now)
    assert bill is not None
    assert bill.usd == pytest.approx(2.0)
    assert len(Service.asked) == 1


def test_without_any_date_that_can_be_believed_weeks_are_asked_about(
    config: RunConfig, url: str
) -> None:
    dated(config, datetime(1980, 1, 1, tzinfo=UTC))
    Service.asked.clear()
    assert ask_bill(config, backend(config, url, MAY), now=HOUR + timedelta(days=50)) is not None
    assert len(Service.asked) == 5
