"""What people see of a run at Prefect: names, logs, artifacts, assets, events, how it ended."""
