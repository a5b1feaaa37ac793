"""A task whose earlier result counts only while what it points at is there.

Prefect's cache says that this was done before; whether what came of it is still there, the files
alone say. So a result from the cache is held against them, and made anew where they differ. And the
other way round: what a task does looks at the files first and returns what is done, so that a key
that changed, or a cache that was lost, costs that look and no work.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

from prefect import task
from prefect.context import TaskRunContext

from visual_r1.hashing import digest

P = ParamSpec("P")
Result = dict[str, Any]


def verified(
    *,
    version: int,
    key: Callable[..., Mapping[str, Any]],
    still_there: Callable[..., bool],
    **options: Any,
) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """A task named as the function, without a leading underscore; its result is small and JSON.

    `key(**arguments)` is all that the result depends on, `still_there(result, **arguments)` whether
    the files hold what a result says. `version` is raised by hand when the meaning of the task
    changes: a hash of its source would miss a change in what it imports, and would throw GPU hours
    away for a comment. `options` are Prefect's, `task_run_name` for one.
    """

    def decorate(work: Callable[P, Result]) -> Callable[P, Result]:
        name, signature = work.__name__.removeprefix("_"), inspect.signature(work)

        def cache_key(_: TaskRunContext, arguments: dict[str, Any]) -> str:
            return f"{name}-v{version}-{digest(key(**arguments), 24)}"

        cached = task(
            work,
            name=name,
            cache_key_fn=cache_key,
            persist_result=True,
            result_serializer="json",
            **options,
        )

        @functools.wraps(work)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            result = cached(*args, **kwargs)
            if still_there(result, **given.arguments):
                return result
            return cached.with_options(refresh_cache=True)(*args, **kwargs)

        return call

    return decorate
