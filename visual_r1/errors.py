"""Everything that Visual R1 raises on purpose.

VisualR1Error
├── ConfigError          a flag, a TOML key or a preset is wrong
├── DataError            a source, a row or a dataset folder is wrong
├── ModelError           a model folder, tokenizer or processor is wrong
├── BackendError         the Tinker server: unreachable, refused, incompatible
│   ├── CredentialError  no key where one is needed, or a key of the wrong form
│   ├── ServerBusy       it is there and takes nothing just now
│   ├── IncompatibleServer  it does not do what training needs, nor will the second time
│   ├── EngineError      the embedded engine did not start, or died
│   │   └── EngineRefused  it said why it cannot start, and will say so again
│   └── RequestRefused   one request is at fault, not the server: too long, unreadable
│       └── RequestFailed  the server failed at one request, and may not when it is sent again
├── RunError             a run folder: in use, of another configuration, damaged
│   └── BudgetReached    the money that was allowed is spent
├── RunPaused            an alarm paused the run; starting it again is the answer
├── RunStopped           a person stopped the run from elsewhere; it goes on when started again
├── RewardError          a user's own reward function failed
├── LossError            a user's own loss failed, or cannot be learnt from
└── StorageError         a file could not be written (disk full, no permission)

Each message is one sentence that names the value, the place and the way out: it is what a user
reads. Programs exit without a traceback: with status 3 where an alarm paused the run, with 130 as
after Ctrl-C where a person stopped it, with status 1 on any other.
"""

from visual_r1.secrecy import hide_secrets
from visual_r1.wording import printable


class VisualR1Error(Exception):
    """The root of all errors raised on purpose; its text is meant for the user.

    It is one printable line, whatever was put into it: names of columns and files, what a server
    or a library said. Keys and passwords are out of it as soon as it is made, so that neither its
    `repr` nor a traceback has them.
    """

    def __init__(self, *said: object) -> None:
        super().__init__(*(hide_secrets(one) if isinstance(one, str) else one for one in said))

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(VisualR1Error):
    """A flag, a TOML key or a preset is wrong."""


class DataError(VisualR1Error):
    """A dataset source, a row or a dataset folder is wrong."""


class ModelError(VisualR1Error):
    """A model folder, tokenizer or image processor is missing or unusable."""


class BackendError(VisualR1Error):
    """The Tinker server cannot be reached, refused the call, or is incompatible."""


class CredentialError(BackendError):
    """A key is needed and missing, or does not have the form that the SDK accepts."""


class ServerBusy(BackendError):
    """The server is there and takes nothing just now: nothing is wrong with address or key.

    `retry_after_s` is how long it asks its clients to wait, in seconds; None where it says nothing.
    """

    def __init__(self, said: str, retry_after_s: float | None = None) -> None:
        super().__init__(said)
        self.retry_after_s = retry_after_s


class IncompatibleServer(BackendError):
    """The server speaks another version of the protocol, or leaves out what training needs."""


class EngineError(BackendError):
    """The embedded engine did not start, or died while it was needed."""


class EngineRefused(EngineError):
    """The embedded engine said why it cannot start: trying again would end the same way."""


class RequestRefused(BackendError):
    """The server says that this one request is at fault; others may go on."""


class RequestFailed(RequestRefused):
    """The server failed at this one request; others may go on, and so may a repetition."""


class RunError(VisualR1Error):
    """A run folder is in use, belongs to another configuration, or cannot be read."""


class BudgetReached(RunError):
    """What a run or sweep may cost is spent; with a higher limit it goes on."""


class RunPaused(VisualR1Error):
    """An alarm paused the run at a checkpoint; started again, it goes on from there."""


class RunStopped(VisualR1Error):
    """A person stopped the run by a tracker's button; it ended at a checkpoint and can go on."""


class RewardError(VisualR1Error):
    """A user's own reward function failed, on one sample or on all samples of a step."""


class LossError(VisualR1Error):
    """A user's own loss raised, or returned what cannot be learnt from."""


class StorageError(VisualR1Error):
    """A file could not be written: the disk is full, or the folder refuses it."""
