"""`visual-r1 deploy` and `visual-r1 automations`: what belongs on a Prefect server."""

from collections.abc import Callable, Sequence
from pathlib import Path

from flows.command import show_error
from flows.operating.project import require_project, server_failures, use_server
from visual_r1.errors import VisualR1Error
from visual_r1.printing import CommandParser, terminal


def deploy(arguments: Sequence[str] | None = None) -> int:
    """Deploy what is shipped, beneath what people set; the exit status."""
    parser = CommandParser(
        prog="visual-r1 deploy",
        description="Create and update the deployments of deployments/prefect.yaml. Schedules and "
        "parameters that a person set since the last time stay, and are named.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--reset",
        metavar="NAME",
        action="append",
        default=[],
        help="the deployment, such as train/quickstart, becomes what is shipped",
    )
    chosen = parser.parse_args(arguments)

    def work(root: Path) -> None:
        from flows.operating.deploy import deploy as deploy_all
        from flows.operating.work_pool import open_work_pool

        open_work_pool()
        deploy_all(root, chosen.reset)

    return on_server(work)


def automations(arguments: Sequence[str] | None = None) -> int:
    """Create what is shipped in deployments/automations; the exit status."""
    parser = CommandParser(
        prog="visual-r1 automations",
        description="Create and update the automations of deployments/automations. What a person "
        "changed, paused or deleted since the last time stays so, and is named.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--reset", metavar="NAME", action="append", default=[], help="as shipped again"
    )
    chosen = parser.parse_args(arguments)

    def work(root: Path) -> None:
        from flows.operating.automations import create_automations

        create_automations(root, chosen.reset)

    return on_server(work)


def on_server(work: Callable[[Path], None]) -> int:
    """Do it with the Prefect server of this folder's settings; the exit status."""
    root = Path.cwd().resolve()
    try:
        require_project(root)
        url = use_server(root)
        with server_failures(url):
            work(root)
    except VisualR1Error as error:
        show_error(terminal(), error)
        return 1
    return 0
