"""/v1/models: the model registry, in OpenAI's format with LLMariner's fields."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Query, Request

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.gateway.responses.limit_errors import model_not_allowed
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.models import ConfigBody, UpdateModel, new_model_config, parse_source_repository
from llmariner.limits.restrictions import caller_restriction
from llmariner.models.model import ActivationStatus, Model, ModelConfig, NewModel, SourceRepository, Task
from llmariner.models.queries import ModelSelector
from llmariner.models.representation import model_object, sets_extra_args
from llmariner.models.restrictions import is_model_admin
from llmariner.platform.serving import Status
from llmariner.tenancy.principal import Caller

READ, WRITE = require_scope("api.model.read"), require_scope("api.model.write")
Reader = Annotated[Caller, READ]
Writer = Annotated[Caller, WRITE]


class CreateModel(Body):
    """POST /v1/models."""

    id: str = ""
    source_repository: str
    model_file_location: str = ""
    is_fine_tuned_model: bool = False
    base_model_id: str = ""
    suffix: str = ""
    is_project_scoped: bool = False
    task: str = ""
    credential: str = ""
    config: ConfigBody | None = None


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("models", context)
    app.get("/v1/models")(list_models)
    app.post("/v1/models")(create_model)
    app.post("/v1/models/{model_id:path}:activate")(activate_model)
    app.post("/v1/models/{model_id:path}:deactivate")(deactivate_model)
    app.post("/v1/models/{model_id:path}:retry")(retry_model)
    app.get("/v1/models/{model_id:path}")(get_model)
    app.patch("/v1/models/{model_id:path}")(update_model)
    app.delete("/v1/models/{model_id:path}")(delete_model)
    return app


async def list_models(
    request: Request,
    caller: Reader,
    include_loading_models: bool = False,
    after: str | None = None,
    limit: Annotated[int, Query(ge=0, le=500)] = 100,
) -> dict[str, Any]:
    """One page; `limit` 0 asks for the default."""
    context = context_of(request)
    page, total = await asyncio.to_thread(_page, context, caller, include_loading_models, after, limit or 100)
    statuses = context.waiting_requests.add_to_all(await context.serving.statuses())
    statuses = await asyncio.to_thread(_of_caller, context, caller, statuses)
    wanted = page[: limit or 100]
    data = [
        model_object(model, statuses.get(model.id, Status()), alias=alias, with_diagnostics=is_model_admin(caller))
        for alias, model in wanted
    ]
    return {"object": "list", "data": data, "has_more": len(page) > len(wanted), "total_items": total}


def _page(
    context: Context, caller: Caller, include_loading: bool, after: str | None, limit: int
) -> tuple[list[tuple[str | None, Model]], int]:
    """A page of up to `limit` + 1 models, then aliases with what they point at; and the number of all."""
    project_id, restriction = caller.key_owner.project_id, caller_restriction(context.database, caller)
    selector = ModelSelector(project_id, include_loading, restriction)
    targets = context.model_aliases.targets(project_id)
    named = context.registry.named(frozenset(targets.values()), project_id) if targets else {}
    shown = {
        alias: named[model]
        for alias, model in sorted(targets.items())
        if model in named and restriction.allows(model, named[model].base_name)
    }
    total = context.registry.count(selector) + len(shown)
    after_alias = after is not None and after in targets
    entries: list[tuple[str | None, Model]] = []
    if not after_alias:
        try:
            entries += [(None, model) for model in context.registry.page(selector, after=after, limit=limit + 1)]
        except InvalidRequest:  # no model, but perhaps an alias that was deleted since the last page
            if after is None or not context.model_aliases.is_known(project_id, after):
                raise
            after_alias = True
    entries += [(alias, model) for alias, model in shown.items() if not after_alias or alias > (after or "")]
    return entries[: limit + 1], total


def create_model(request: Request, caller: Writer, body: CreateModel) -> dict[str, Any]:
    """Register a model; its weights are fetched in the background."""
    context = context_of(request)
    source = parse_source_repository(body.source_repository)
    if source is SourceRepository.KUBERNETES:
        raise InvalidRequest(
            "An InferenceService made with kubectl is found by itself, within five minutes.",
            param="source_repository",
        )
    model_id = body.id
    if body.is_fine_tuned_model:
        if not (body.base_model_id and body.model_file_location):
            raise InvalidRequest(
                "A fine-tuned model needs 'base_model_id' and 'model_file_location'.", param="base_model_id"
            )
        model_id = body.id or NewModel.fine_tuned_id(body.base_model_id, body.suffix)
    if body.task not in ("", *Task):
        raise InvalidRequest(f"'task' must be one of {', '.join(Task)}, or absent.", param="task")
    project_id = caller.key_owner.project_id
    credential = body.credential and context.source_credentials.id_of(project_id, body.credential, source)
    new = NewModel(
        id=model_id,
        source_repository=source,
        model_file_location=body.model_file_location or body.id,
        base_model_id=body.base_model_id if body.is_fine_tuned_model else None,
        project_id=project_id if body.is_project_scoped or body.is_fine_tuned_model else None,
        config=ModelConfig.from_api(new_model_config(body.config)),
        task=Task(body.task) if body.task else None,
        credential_id=credential or None,
    )
    _check_clusters(context, caller, new.config.allowed_clusters)
    return model_object(context.registry.create(new, actor=caller), Status(), with_diagnostics=is_model_admin(caller))


async def get_model(
    request: Request, caller: Reader, model_id: str, include_loading_model: bool = False
) -> dict[str, Any]:
    """One model, with its serving state, measured wake times and last request."""
    context = context_of(request)
    alias, model = await asyncio.to_thread(_get_usable, context, caller, model_id)
    # By the registry's id, since models of other projects and shared models may have the same name.
    status = await context.serving.status(model.id) if model.loaded else Status()
    shown = {model.id: context.waiting_requests.add_to(model.id, status)}
    status = (await asyncio.to_thread(_of_caller, context, caller, shown))[model.id]
    wake_durations = await asyncio.to_thread(context.registry.wake_durations, model.base_model_id or model.id)
    last = await asyncio.to_thread(context.ledger.last_request, model.name, model.project_id)
    return model_object(
        model,
        status,
        alias=alias,
        with_diagnostics=is_model_admin(caller),
        wake_durations=wake_durations,
        last_request_at=last,
    )


def _check_clusters(context: Context, caller: Caller, cluster_ids: Sequence[str]) -> None:
    """InvalidRequest for clusters that the caller's organization does not have."""
    if not cluster_ids:
        return
    unknown = set(cluster_ids) - context.clusters.store.visible_ids(caller.organization_id, cluster_ids)
    if unknown:
        raise InvalidRequest(
            f"Your organization has no cluster with the id '{min(unknown)}': GET /v1/clusters lists them.",
            param="config.cluster_allocation_policy.allowed_cluster_ids",
        )


def _named_clusters(sent: dict[str, Any]) -> list[str]:
    """The clusters that a change names. What is malformed in it is refused where it is applied."""
    policy = sent.get("cluster_allocation_policy")
    named = policy.get("allowed_cluster_ids") if isinstance(policy, dict) else None
    return [each for each in named[:100] if isinstance(each, str)] if isinstance(named, list) else []


def _of_caller(context: Context, caller: Caller, statuses: dict[str, Status]) -> dict[str, Status]:
    """The statuses without clusters of other organizations, on which a shared model may run."""
    ids = {id_ for status in statuses.values() for id_, _, _ in status.clusters}
    if not ids:
        return statuses
    seen = context.clusters.store.visible_ids(caller.organization_id, ids)
    return {
        name: replace(status, clusters=tuple(each for each in status.clusters if each[0] in seen))
        for name, status in statuses.items()
    }


def _get_usable(context: Context, caller: Caller, model_id: str) -> tuple[str | None, Model]:
    """A model that the caller may use, and the alias by which it was named.

    Raises ModelNotFound, or PermissionDenied for a model that the caller sees only.
    """
    project_id = caller.key_owner.project_id
    target = context.model_aliases.targets(project_id).get(model_id)
    model = context.registry.get(target or model_id, project_id=project_id)
    if not caller_restriction(context.database, caller).allows(model.name, model.base_name):
        raise model_not_allowed(model.name)
    return (model_id if target else None), model


def update_model(
    request: Request, caller: Writer, model_id: str, body: UpdateModel, update_mask: str = ""
) -> dict[str, Any]:
    """Change the configuration of a model, effective at its next wake."""
    context = context_of(request)
    sent, paths = body.config_change(update_mask)
    _check_clusters(context, caller, _named_clusters(sent))
    changed = context.registry.configure(
        model_id,
        lambda config: config.apply_patch(sent, paths=paths),
        project_id=caller.key_owner.project_id,
        actor=caller,
        sets_extra_args=sets_extra_args(sent, paths),
        created=body.expected_created,
    )
    return model_object(changed, Status(), with_diagnostics=is_model_admin(caller))


def delete_model(request: Request, caller: Writer, model_id: str) -> dict[str, Any]:
    """Delete a model; its engine stops and weights that the platform fetched are removed."""
    context = context_of(request)
    context.registry.delete(model_id, project_id=caller.key_owner.project_id, actor=caller)
    return {"id": model_id, "object": "model", "deleted": True}


def retry_model(request: Request, caller: Writer, model_id: str) -> dict[str, Any]:
    """Fetch the weights of a model again whose loading failed; what was fetched is kept."""
    context = context_of(request)
    model = context.registry.retry(model_id, project_id=caller.key_owner.project_id, actor=caller)
    return model_object(model, Status(), with_diagnostics=is_model_admin(caller))


async def activate_model(request: Request, caller: Writer, model_id: str) -> dict[str, Any]:
    """Wake a model and keep it awake."""
    context = context_of(request)
    model = await asyncio.to_thread(_activate, context, caller, model_id, ActivationStatus.ACTIVE)
    await context.serving.wake(model.id)
    return {}


async def deactivate_model(request: Request, caller: Writer, model_id: str) -> dict[str, Any]:
    """Put a model to sleep; the next request wakes it where on-demand allocation is enabled."""
    context = context_of(request)
    model = await asyncio.to_thread(_activate, context, caller, model_id, ActivationStatus.INACTIVE)
    await context.serving.sleep(model.id)
    return {}


def _activate(context: Context, caller: Caller, model_id: str, status: ActivationStatus) -> Model:
    return context.registry.activate(model_id, status, project_id=caller.key_owner.project_id, actor=caller)


handle = http_function(build)
