"""Behind a network that loses, breaks, delays and repeats, a run ends with the same bits."""

from pathlib import Path

from fault_proxy import FAULTS, FaultProxy
from faults import config_of, run

from visual_r1.engine.launch import start_engine
from visual_r1.models import TINY_GEOMETRY

SEED = 0


def test_a_fifth_of_all_requests_meets_a_fault(tmp_path: Path) -> None:
    home = tmp_path / "engine"
    with start_engine(home, TINY_GEOMETRY, 1, tmp_path / "engine.log") as engine:
        plain = run(config_of(tmp_path, "plain", 2, 1), engine, home, engine.url)
        with FaultProxy(engine.url, SEED, stall_s=0.3) as proxy:
            faulty = run(config_of(tmp_path, "faulty", 2, 1), engine, home, proxy.url)
    assert len(plain.metrics) == 2
    assert all(row["updated"] for row in plain.metrics)
    assert faulty.differing(plain) == []
    assert set(proxy.faults) == set(FAULTS), "another seed would meet each kind of fault"
    assert 0.1 < proxy.faults.total() / proxy.requests < 0.3
