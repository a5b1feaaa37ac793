"""The samplers behind an endpoint: opened once, opened anew where the server has lost them."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tinker

from visual_r1.backend.backend import Backend
from visual_r1.backend.waiting import FAILURES, LOOK_EVERY_S, SAMPLE_LIMIT_S, described
from visual_r1.errors import BackendError, EngineError, RequestFailed, RequestRefused

CANCELLED_AFTER_S = 1.0


class Wish(NamedTuple):
    """What is asked of a sampler: `samples` answers to a prompt."""

    prompt: tinker.ModelInput
    samples: int
    params: tinker.SamplingParams
    top_logprobs: int = 0


class Samplers:
    """A sampler for each model that is served, all in one session of `backend`.

    `paths` are their weights by name; None is the base model. Several threads may ask.
    """

    def __init__(self, backend: Backend, paths: Mapping[str, str | None]) -> None:
        self._backend, self._paths = backend, dict(paths)
        self._opened: dict[str, tinker.SamplingClient] = {}
        self._one_at_a_time = threading.Lock()
        self._looking = threading.Lock()
        self._generation = 0

    def open(self) -> None:
        """Open them all. Raises as `Backend.sampler`: `RequestRefused` where weights are gone."""
        for name in self._paths:
            self._sampler(name)

    def _sampler(self, name: str) -> tuple[int, tinker.SamplingClient]:
        with self._one_at_a_time:
            if name not in self._opened:
                self._opened[name] = self._backend.sampler(self._paths[name])
            return self._generation, self._opened[name]

    def _renew(self, generation: int) -> None:
        """Open another session, unless somebody has done so since `generation`."""
        with self._one_at_a_time:
            if generation == self._generation:
                self._generation += 1
                self._opened.clear()
                self._backend.connect()  # an engine that has died is started again

    def look(self) -> None:
        """Raise `EngineError` where the embedded engine has died; one thread looks at a time."""
        if self._looking.acquire(blocking=False):
            try:
                self._backend.check()
            finally:
                self._looking.release()

    async def ask(self, name: str, wish: Wish) -> tinker.SampleResponse:
        """What the model `name` answers; cancelled at the server where this is cancelled.

        A server that failed is asked once more, in a new session. Raises `RequestRefused` where
        the request is at fault, `BackendError` where the server is.
        """
        for last in (False, True):
            generation, sampler = await asyncio.to_thread(self._sampler, name)
            try:
                return await self._ask_once(sampler, wish, generation)
            except RequestFailed:  # at this one, and the session is well
                if last:
                    raise
            except RequestRefused:
                raise
            except BackendError:
                if last:
                    raise
                await asyncio.to_thread(self._renew, generation)
        raise AssertionError("the second attempt ends by itself")

    async def _ask_once(
        self, sampler: tinker.SamplingClient, wish: Wish, generation: int
    ) -> tinker.SampleResponse:
        asked = sampler.sample(
            wish.prompt, wish.samples, wish.params, topk_sample_logprobs=wish.top_logprobs
        )
        reply = asyncio.wrap_future(asked.future())
        waited = 0.0
        try:
            while not (await asyncio.wait([reply], timeout=LOOK_EVERY_S))[0]:
                waited += LOOK_EVERY_S
                await asyncio.to_thread(self.look)
                if generation != self._generation:
                    raise EngineError("The session with the server was lost.")
                if waited > SAMPLE_LIMIT_S:
                    raise BackendError("The server has not answered: it may be paused.")
            if reply.cancelled():  # by the SDK, and not by us
                raise BackendError("The session with the server was lost.")
            return reply.result()
        except FAILURES as error:
            await asyncio.to_thread(self.look)
            raise described(error, "a chat completion") from error
        finally:
            if not reply.done():
                _cancel_soon(reply)


def _cancel_soon(reply: "asyncio.Future[tinker.SampleResponse]") -> None:
    """The SDK tells the server of a request that is given up where the server has confirmed it: so
    it has a moment for that."""

    def noticed(done: "asyncio.Future[tinker.SampleResponse]") -> None:
        if not done.cancelled():
            done.exception()  # whatever it is, nobody waits for it

    reply.add_done_callback(noticed)
    asyncio.get_running_loop().call_later(CANCELLED_AFTER_S, reply.cancel)


async def unless_gone(
    work: "asyncio.Task[tinker.SampleResponse]", is_gone: Callable[[], "asyncio.Future[bool]"]
) -> tinker.SampleResponse | None:
    """The result of `work`; None, and it is cancelled, where the client has gone meanwhile."""
    while not (await asyncio.wait([work], timeout=LOOK_EVERY_S / 4))[0]:
        if await is_gone():
            work.cancel()
            await asyncio.wait([work])
            return None
    return work.result()
