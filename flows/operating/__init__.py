"""Setting up a machine and keeping it: server, worker, pages, deployments, automations, secrets."""
