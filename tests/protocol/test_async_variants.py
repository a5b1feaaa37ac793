"""Every deprecated `*_async` method of the SDK's clients, against the engine."""

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any

import pytest
import tinker
from protocol_client import MODEL, TOKENS, datum
from tinker import types

from visual_r1.engine.launch import RunningEngine

PROMPT = types.ModelInput.from_ints(list(TOKENS))
NOT_OFFERED = {"export_session_trace_async", "get_audit_log_async", "get_billing_usage_async"}


class Calls:
    """Awaits `*_async` methods by name, and knows which it has awaited."""

    def __init__(self) -> None:
        self.made: set[tuple[type, str]] = set()

    async def __call__(self, client: object, name: str, *args: Any, **kwargs: Any) -> Any:
        method = f"{name}_async"
        self.made.add((type(client), method))
        with pytest.warns(FutureWarning, match="deprecated"):
            pending: Awaitable[Any] = getattr(client, method)(*args, **kwargs)
            return await pending


def asynchronous(client: type) -> set[tuple[type, str]]:
    names = {name for name, _ in inspect.getmembers(client, inspect.isfunction)}
    return {
        (client, name) for name in names if name.endswith("_async") and not name.startswith("_")
    }


async def train(call: Calls, service: tinker.ServiceClient) -> tuple[str, str]:
    """Every training call; returns a state's path and a PEFT folder's."""
    client = await call(service, "create_lora_training_client", MODEL, rank=2)
    assert (await call(client, "get_info")).lora_rank == 2
    passed = await call(client, "forward_backward", [datum()], "cross_entropy")
    stepped = await call(client, "optim_step", types.AdamParams())
    assert (await passed).metrics and (await stepped).metrics
    assert (await (await call(client, "forward", [datum()], "cross_entropy"))).metrics
    custom = await call(
        client, "forward_backward_custom", [datum()], lambda _, logp: (-logp[0].sum(), {})
    )
    assert (await custom).metrics
    state = (await (await call(client, "save_state", "s"))).path
    external = (await (await call(client, "save_weights_external", "e"))).path
    weights = (await (await call(client, "save_weights_for_sampler", "w"))).path
    assert (await (await call(client, "load_state", state))).path == state
    assert (await (await call(client, "load_state_with_optimizer", state))).path == state
    for sampler in (
        await call(client, "create_sampling_client", weights),
        await call(client, "save_weights_and_get_sampling_client"),
    ):
        assert (await call(sampler, "get_base_model")) == MODEL
        assert len(await call(sampler, "compute_logprobs", PROMPT)) == len(TOKENS)
    return state, external


async def rest_calls(
    call: Calls, rest: tinker.RestClient, session: str, state: str, external: str
) -> None:
    """Every REST call that is offered."""
    run = state.split("/")[2]
    assert (await call(rest, "get_training_run", run)).training_run_id == run
    assert (await call(rest, "get_training_run_by_tinker_path", state)).training_run_id == run
    assert (await call(rest, "list_training_runs", 1)).training_runs
    assert len((await call(rest, "list_checkpoints", run)).checkpoints) == 3
    assert (await call(rest, "list_user_checkpoints", 1)).checkpoints
    assert (await call(rest, "get_external_weights_urls", external)).urls
    assert (await call(rest, "copy_weights", state, "project")).endswith("/weights/s")
    for name in ("publish", "unpublish"):
        await call(rest, f"{name}_checkpoint_from_tinker_path", state)
    await call(rest, "set_checkpoint_ttl_from_tinker_path", state, 3600)
    found = await call(rest, "get_session", session)
    assert run in found.training_run_ids
    assert session in (await call(rest, "list_sessions", 100)).sessions
    assert (await call(rest, "get_sampler", found.sampler_ids[0])).base_model == MODEL
    await call(rest, "assign_session_project", session, "project")
    assert (await call(rest, "get_current_checkpoint_storage_usage")).data
    await call(rest, "delete_checkpoint_from_tinker_path", state)
    await call(rest, "delete_checkpoint", run, "external_weights/e")


async def play(engine: RunningEngine) -> set[tuple[type, str]]:
    call = Calls()
    service = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
    rest = tinker.RestClient(base_url=engine.url, api_key=engine.api_key)
    admin = tinker.AdminClient(base_url=engine.url, api_key=engine.api_key)
    assert (await call(service, "get_server_capabilities")).supported_models
    state, external = await train(call, service)
    for name in ("", "_with_optimizer"):
        again = await call(service, f"create_training_client_from_state{name}", state)
        assert (await again.forward([datum()], "cross_entropy")).metrics
    sampler = await call(service, "create_sampling_client", base_model=MODEL)
    drawn = await call(sampler, "sample", PROMPT, 1, types.SamplingParams(max_tokens=2))
    assert drawn.sequences[0].tokens
    await rest_calls(call, rest, service.holder.get_session_id(), state, external)
    assert (await call(admin, "get_current_checkpoint_storage_usage")).data
    await service.close("success")
    return call.made


def test_all_of_them(engine: RunningEngine) -> None:
    made = asyncio.run(play(engine))
    clients = (
        tinker.ServiceClient,
        tinker.TrainingClient,
        tinker.SamplingClient,
        tinker.RestClient,
        tinker.AdminClient,
    )
    every = {found for client in clients for found in asynchronous(client)}
    assert {name for _, name in every - made} == NOT_OFFERED
