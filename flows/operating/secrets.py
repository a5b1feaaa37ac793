"""`visual-r1 secrets`: keys in Secret blocks of the Prefect server, typed unseen or piped in.

visual-r1 secrets set tinker-api-key              # asks, and shows nothing
visual-r1 secrets set wandb-api-key < key.txt     # or from standard input
visual-r1 secrets list
visual-r1 secrets remove hf-token
"""

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from flows.operating.command import on_server
from tasks.keys import KEYS, TINKER
from visual_r1.backend.endpoint import checked_key
from visual_r1.errors import ConfigError, CredentialError
from visual_r1.printing import CommandParser, say

if TYPE_CHECKING:
    from prefect.blocks.abstract import NotificationBlock

NOTIFICATIONS = "notification-url"
"""Not a Secret block but the notification block of the automations, with this webhook in it."""

NAMES = (*(key.block for key in KEYS), NOTIFICATIONS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Set, list or remove secrets; the exit status."""
    parser = CommandParser(
        prog="visual-r1 secrets",
        description="Keys on the Prefect server, for the runs of its workers. What the environment "
        "of a worker holds is taken before them.",
        epilog=f"Names: {', '.join(NAMES)}.",
        allow_abbrev=False,
    )
    does = parser.add_subparsers(dest="does", required=True, parser_class=CommandParser)
    for name, what in (("set", "asked for unseen, or read from standard input"), ("remove", "")):
        does.add_parser(name, help=what).add_argument("name", choices=NAMES, metavar="NAME")
    does.add_parser("list", help="which are there, and since when; never what they hold")
    chosen = parser.parse_args(arguments)
    return on_server(lambda _: _do(chosen))


def _do(chosen: argparse.Namespace) -> None:
    if chosen.does == "set":
        _set(chosen.name)
    elif chosen.does == "remove":
        _remove(chosen.name)
    else:
        _list()


def _set(name: str) -> None:
    value = _asked_for(name)
    # Prefect's blocks are imported when something was typed.
    from prefect.blocks.system import Secret

    from flows.operating.automations import ALERTS

    if name == NOTIFICATIONS:
        _webhook(value).save(ALERTS, overwrite=True, _sync=True)  # pyright: ignore[reportCallIssue]
        say(
            f"The notification block {ALERTS} is on the server; `visual-r1 automations` creates "
            "what writes to it."
        )
        return
    secret: Secret[str] = Secret(value=SecretStr(value))
    secret.save(name, overwrite=True, _sync=True)  # pyright: ignore[reportCallIssue]
    say(f"{name} is on the server. Runs take it where their worker's environment has none.")


def _asked_for(name: str) -> str:
    """What the user types or pipes in. Raises `ConfigError` for what cannot be it."""
    value = (getpass.getpass(f"{name}: ") if sys.stdin.isatty() else sys.stdin.read()).strip()
    if not value or len(value.split()) != 1 or not value.isprintable():
        raise ConfigError(
            f"What was given for {name} is {'empty' if not value else 'more than one word'}: a key "
            "is one word, typed when it is asked for or piped in."
        )
    if name == TINKER.block:
        try:
            checked_key(value)
        except CredentialError as error:
            raise ConfigError(str(error).replace(TINKER.variable, "What was given")) from error
    if name == NOTIFICATIONS and urlsplit(value).scheme not in ("http", "https"):
        raise ConfigError(f"{name} is the address of a webhook: https://…")
    return value


def _webhook(url: str) -> "NotificationBlock":
    """A notification block for the address: Slack's own form for Slack, else a text in JSON."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook

    if urlsplit(url).hostname == "hooks.slack.com":
        return SlackWebhook(url=SecretStr(url))
    said = "{{subject}}\n{{body}}"
    return CustomWebhookNotificationBlock(  # pyright: ignore[reportCallIssue]
        name="Visual R1",
        url="{{url}}",
        # `text` for Slack's likes, `content` for Discord's.
        json_data={"text": said, "content": said},
        secrets={"url": url},
    )


def _remove(name: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        documents = client.read_block_documents(include_secrets=False)
        found = [document for document in documents if document.name == _block(name)]
        for document in found:
            client.delete_block_document(document.id)
    say(f"{name} is removed." if found else f"{name} is not on the server.")


def _list() -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        documents = client.read_block_documents(include_secrets=False)
    there = {document.name: document for document in documents}
    for name in NAMES:
        document = there.get(_block(name))
        since = f"{document.updated:%Y-%m-%d %H:%M UTC}" if document and document.updated else ""
        say(f"{name:<18}{f'on the server, set {since}' if document else 'not set'}")
    for key in KEYS:
        if os.environ.get(key.variable):
            say(f"{key.variable} is in this environment, and is taken before {key.block} here.")


def _block(name: str) -> str:
    from flows.operating.automations import ALERTS

    return ALERTS if name == NOTIFICATIONS else name
