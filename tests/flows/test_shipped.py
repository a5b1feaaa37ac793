"""Deploying again: what a person set stays, all else follows what is shipped."""

from typing import Any

from flows.operating.shipped import Table, as_entry, digests, merge, table_of_entry

SHIPPED: dict[str, Any] = {
    "name": "nightly",
    "entrypoint": "flows/train_flow.py:train",
    "parameters": {"preset": "quickstart", "overrides": {"train.steps": 60}},
    "schedules": [{"cron": "0 3 * * *", "slug": "night", "active": False}],
    "tags": ["night"],
    "work_pool": {"name": "visual-r1", "job_variables": {"env": {"DO_NOT_TRACK": "1"}}},
}


def edited(table: Table, **changes: object) -> Table:
    paths = {"steps": ("overrides", "train.steps"), "night": ("schedule", "night")}
    return table | {paths[name]: value for name, value in changes.items()}


def test_what_nobody_touched_follows_what_is_shipped() -> None:
    before = table_of_entry(SHIPPED)
    now = table_of_entry(SHIPPED | {"tags": ["week"], "schedules": []})
    merged = merge(now, before, digests(before))
    assert merged.table == now
    assert set(merged.updated) == {("tags",), ("schedule", "night")}
    assert not merged.kept


def test_what_a_person_set_stays_whatever_is_shipped_now() -> None:
    before = table_of_entry(SHIPPED)
    on = before["schedule", "night"] | {"active": True}
    theirs = edited(before, steps=6, night=on) | {("overrides", "train.rank"): 8}
    newer = {"preset": "quickstart", "overrides": {"train.steps": 80, "train.batch_size": 4}}
    merged = merge(table_of_entry(SHIPPED | {"parameters": newer}), theirs, digests(before))
    assert merged.table["overrides", "train.steps"] == 6
    assert merged.table["overrides", "train.rank"] == 8
    assert merged.table["schedule", "night"]["active"] is True
    assert merged.updated == (("overrides", "train.batch_size"),)
    assert set(merged.kept) == {
        ("overrides", "train.steps"),
        ("overrides", "train.rank"),
        ("schedule", "night"),
    }


def test_what_a_person_removed_stays_away() -> None:
    before = table_of_entry(SHIPPED)
    theirs = {path: value for path, value in before.items() if path[0] != "schedule"}
    merged = merge(before, theirs, digests(before))
    assert merged.table == theirs
    assert merged.kept == (("schedule", "night"),)


def test_where_nobody_knows_what_was_shipped_all_stays() -> None:
    theirs = table_of_entry(SHIPPED | {"parameters": {"preset": "seed"}})
    merged = merge(table_of_entry(SHIPPED), theirs, None)
    assert merged.table == theirs
    assert not merged.updated


def test_an_entry_for_prefect_says_what_the_table_says() -> None:
    table = edited(table_of_entry(SHIPPED), steps=6)
    entry = as_entry(table, SHIPPED, None)
    assert table_of_entry(entry) == table
    # Schedules that are as they should be are not sent: Prefect would make them anew.
    assert "schedules" not in as_entry(table, SHIPPED, table)
