"""A task whose earlier result counts only while what it points at is there.

Prefect's cache says that this was done before; whether what came of it is still there, the files
alone say. So a result from the cache is held against them, and made anew where they differ. And the
other way round: what a task does looks at the files first and returns what is done, so that a key
that changed, or a cache that was lost, costs that look and no work.

What Prefect keeps of a result can be damaged as any file: it is sealed as those of a run are, and
one that changed is none. A result of an older version has no seal; it must have all its fields.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, ParamSpec, cast

from prefect import task
from prefect.context import TaskRunContext

from tasks.interruption import stop_if_interrupted
from visual_r1.hashing import digest
from visual_r1.storage import SEAL

P = ParamSpec("P")
Result = dict[str, Any]

_DIGITS = 32


def verified(
    *,
    version: int,
    key: Callable[..., Mapping[str, Any]],
    fields: Collection[str],
    still_there: Callable[..., bool],
    **options: Any,
) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """A task named as the function, without a leading underscore; its result is small and JSON.

    `key(**arguments)` is all that the result depends on, `fields` what it has, and
    `still_there(result, **arguments)` whether the files hold what it says. `version` is raised by
    hand when the meaning of the task changes: a hash of its source would miss a change in what it
    imports, and would throw GPU hours away for a comment. `options` are Prefect's, `task_run_name`
    for one.
    """

    def decorate(work: Callable[P, Result]) -> Callable[P, Result]:
        name, signature = work.__name__.removeprefix("_"), inspect.signature(work)

        def cache_key(_: TaskRunContext, arguments: dict[str, Any]) -> str:
            return f"{name}-v{version}-{digest(key(**arguments), 24)}"

        @functools.wraps(work)
        def sealed(*args: P.args, **kwargs: P.kwargs) -> Result:
            result = work(*args, **kwargs)
            return result | {SEAL: digest(result, _DIGITS)}

        cached = task(  # pyright: ignore[reportCallIssue]
            sealed,  # pyright: ignore[reportArgumentType]
            name=name,
            cache_key_fn=cache_key,
            persist_result=True,
            result_serializer="json",
            **options,
        )

        @functools.wraps(work)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            stop_if_interrupted()
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            result = _as_it_was(cached(*args, **kwargs), fields)
            if result is not None and still_there(result, **given.arguments):
                return result
            made = cached.with_options(refresh_cache=True)(*args, **kwargs)
            return {name: value for name, value in made.items() if name != SEAL}

        return call

    return decorate


def _as_it_was(kept: object, fields: Collection[str]) -> Result | None:
    """A result as its task returned it; None where it was damaged since."""
    if not isinstance(kept, dict):
        return None
    result = {name: value for name, value in cast("Result", kept).items() if name != SEAL}
    if SEAL in kept and kept[SEAL] != digest(result, _DIGITS):
        return None
    return result if set(fields) <= result.keys() else None
