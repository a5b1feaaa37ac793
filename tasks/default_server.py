"""Where Prefect finds the temporary server: in the place of its own class for one.

Prefect's clients import `prefect.server.api.server` for that class alone, and with it the whole
server, its database, routes and services: two seconds of a processor. So a module of that name
stands there which has the class and nothing else. Whatever else is asked of it is Prefect's own
module's, which then takes its place.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from tasks.temporary_server import TemporaryServer

_SERVER_MODULE = "prefect.server.api.server"


class _ServerModule(ModuleType):
    """What a program without a server of its own needs of Prefect's module of that name."""

    def __init__(self, server: TemporaryServer) -> None:
        super().__init__(_SERVER_MODULE)
        self._server = server
        self.SubprocessASGIServer = _ServerClass(self)

    def of_this_process(self) -> TemporaryServer:
        """The one server, as Prefect's class gives it where no port is named."""
        return self._server

    def whole(self) -> Any:
        """Prefect's own module, which knows the server of this process."""
        if sys.modules.get(_SERVER_MODULE) is self:
            del sys.modules[_SERVER_MODULE]
        _known(importlib.import_module(_SERVER_MODULE)).setdefault(None, self._server)
        return sys.modules[_SERVER_MODULE]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.whole(), name)


class _ServerClass:
    """What is called like Prefect's `SubprocessASGIServer`, and is it in all else."""

    def __init__(self, module: _ServerModule) -> None:
        self._module = module

    def __call__(self, port: int | None = None) -> Any:
        if port is None:
            return self._module.of_this_process()
        return self._module.whole().SubprocessASGIServer(port)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module.whole().SubprocessASGIServer, name)


def _known(module: Any) -> dict[int | None, Any]:
    """The servers of a process by their ports, as Prefect's own class keeps them."""
    return module.SubprocessASGIServer._instances


def temporary_server() -> TemporaryServer:
    """The one of this process, which all of Prefect uses where no other is set."""
    module: Any = sys.modules.get(_SERVER_MODULE)
    if module is None:
        module = sys.modules[_SERVER_MODULE] = _ServerModule(TemporaryServer())
    elif not isinstance(module, _ServerModule) and None not in _known(module):
        _known(module)[None] = TemporaryServer()
    return module.SubprocessASGIServer()


def start_temporary_server() -> None:
    """Start it and wait until it answers. Raises `ConfigError` where it does not come to that."""
    temporary_server().start()


def finish_temporary_server() -> None:
    """Its run has ended, and another may begin."""
    server: Any = temporary_server()
    if isinstance(server, TemporaryServer):  # else a test's
        server.finish()
