"""/v1/fine_tuning/adapters: the files of tuned models, as engines of a cluster fetch them by tokens of their models."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from llmariner.audit.request_context import client_address
from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app

Found = TypeVar("Found")


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("fine_tuning_adapters", context)
    app.get("/v1/fine_tuning/adapters/{name}", response_model=None)(get_file)
    return app


def get_file(request: Request, name: Literal["adapter_config.json", "adapter_model.safetensors"]) -> Response:
    """One of the two files of the adapter that the token names."""
    adapters = context_of(request).fine_tuning.adapter_weights
    if name == "adapter_config.json":
        return Response(_with_token(request, adapters.configuration), media_type="application/json")
    content = _with_token(request, adapters.read)
    headers: dict[str, Any] = {"content-length": str(content.size_bytes)}
    return StreamingResponse(content.parts, media_type="application/octet-stream", headers=headers)


def _with_token(request: Request, look_up: Callable[[str], Found]) -> Found:
    """What the token opens. Raises AuthenticationFailed, and RateLimited after too many wrong ones of an address."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    context, token = context_of(request), token if scheme.lower() == "bearer" else ""
    if context.fine_tuning.adapter_weights.is_signed(token):
        return look_up(token)
    return context.secret_lookups.look_up(
        token,
        lambda: look_up(token),
        client_address.get(),
        untrusted_proxy=bool(request.state.untrusted_proxy),
    )


handle = http_function(build)
