"""`visual-r1 watch`: runs of Prefect whose process on this machine has died are mended.

visual-r1 watch          # beside a worker, for as long as that serves
visual-r1 watch --once   # look once, and say what was done
"""

from collections.abc import Sequence

from flows.command import show_error
from flows.operating.project import server_failures
from tasks.environment import prefect_server, require_prefect_server, settle_prefect
from visual_r1.errors import ConfigError, VisualR1Error
from visual_r1.printing import CommandParser, say, show_warnings, terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch, or look once; the exit status."""
    parser = CommandParser(
        prog="visual-r1 watch",
        description="Mend the runs of Prefect whose process on this machine has died, and go on "
        "with those that have the tag `restart`.",
        allow_abbrev=False,
    )
    parser.add_argument("--once", action="store_true", help="look once, and end")
    once = parser.parse_args(arguments).once
    try:
        settle_prefect()
        if (server := prefect_server()) is None:
            raise ConfigError(
                "There is no Prefect server to watch: set PREFECT_API_URL to the one that your "
                "deployments are on."
            )
        if once:
            require_prefect_server()
            _look_once(server)
            return 0
    except VisualR1Error as error:
        show_error(terminal(), error)
        return 1
    from tasks.watch import keep_watching  # imports Prefect, which reads its settings then

    show_warnings(terminal())
    keep_watching()
    return 0


def _look_once(server: str) -> None:
    from tasks.watch import Watch

    with server_failures(server):
        for sentence in Watch().look():
            say(sentence)
