"""GET /v1/inference/status: the state of engines, in LLMariner's format."""

import asyncio
from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.limits.restrictions import caller_restriction
from llmariner.models.queries import ModelSelector
from llmariner.platform.serving import Phase, Status, served_name
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope("api.model.read")]


def build(context: Context) -> Application:
    """The application with its route."""
    app = create_app("inference_status", context)
    app.get("/v1/inference/status")(status)
    return app


async def status(request: Request, caller: Reader) -> dict[str, Any]:
    """The state of every model that the caller may use, with its requests in flight."""
    context = context_of(request)
    statuses = context.waiting_requests.add_to_all(await context.serving.statuses())
    bases = await asyncio.to_thread(_base_ids, context, caller)
    models = [_model(served_name(model_id), statuses.get(model_id, Status())) for model_id in bases]
    running = {model["id"]: model["in_progress_task_count"] for model in models if model["in_progress_task_count"]}
    engine = {"engine_id": "local", "ready": True, "cluster_id": "local", "models": models}
    cluster = {
        "id": "local",
        "name": "local",
        "engine_statuses": [engine],
        "model_count": len(models),
        "in_progress_task_count": sum(running.values()),
        "gpu_allocated": 0,
    }
    return {"cluster_statuses": [cluster], "task_status": {"in_progress_task_counts": running}}


def _base_ids(context: Context, caller: Caller) -> list[str]:
    return context.registry.base_ids(
        ModelSelector(caller.key_owner.project_id, restriction=caller_restriction(context.database, caller))
    )


def _model(model_id: str, state: Status) -> dict[str, Any]:
    return {
        "id": model_id,
        "is_ready": state.phase is Phase.READY,
        "in_progress_task_count": state.requests_running + state.requests_waiting,
        "gpu_allocated": 0,
        "is_dynamically_loaded_lora": False,
        "phase": state.phase,
        "progress": state.progress,
        "estimate_seconds": state.estimate_seconds,
        "requests_running": state.requests_running,
        "requests_waiting": state.requests_waiting,
        "tokens_per_second": state.tokens_per_second,
        "generation_tokens": state.generation_tokens,
        "memory_bytes": state.memory_bytes,
        "status_details": {
            "num_ready_pods": int(state.phase is Phase.READY),
            "num_total_pods": int(state.phase is not Phase.ASLEEP),
            "status_message": state.message,
        },
    }


handle = http_function(build)
