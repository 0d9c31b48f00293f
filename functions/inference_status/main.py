"""GET /v1/inference/status: engines and what they do, in LLMariner's shape."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.app import api
from llmariner.http.authentication import context_of, requires
from llmariner.http.function import Application, function
from llmariner.platform.serving import Phase, Status
from llmariner.tenancy.caller import Caller

Reader = Annotated[Caller, requires("api.model.read")]


def build(context: Context) -> Application:
    """The route."""
    app = api("inference_status", context)
    app.get("/v1/inference/status")(status)
    return app


async def status(request: Request, key: Reader) -> dict[str, Any]:
    """Every model that is not asleep, and every one that is, with what is in flight."""
    context = context_of(request)
    statuses = await context.serving.statuses()
    page = context.registry.page(project_id=key.owner.project_id, include_loading=True, after=None, limit=500)
    bases = [model for model in page if model.base_model_id is None]
    models = [_model(model.id, statuses.get(model.id, Status())) for model in bases]
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


handle = function(build)
