"""/v1/batch/jobs/{id}/results: what the pod of a batch job leaves, with the token of its job."""

from typing import Any

from fastapi import Request

from llmariner.audit.request_context import client_address
from llmariner.batch_jobs.job_tokens import JobPod
from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.batch_jobs import NameResults


def build(context: Context) -> Application:
    """The application with its route."""
    app = create_app("batch_jobs_results", context)
    app.post("/v1/batch/jobs/{id}/results")(name_results)
    return app


def name_results(request: Request, id: str, body: NameResults) -> dict[str, Any]:
    """URLs by which the pod uploads its files, in place of what the job left before."""
    pod = _pod(request, id)
    made = context_of(request).batch_job_results.begin(pod, body.to_files(), body.left_out)
    return {"uploads": [{"name": name, "url": url, "method": "PUT"} for name, url in made]}


def _pod(request: Request, job_id: str) -> JobPod:
    """The pod that asks. Raises AuthenticationFailed, and RateLimited after too many wrong tokens of an address.

    A token that the installation signed is no guess, and all pods may have one address.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    context, token = context_of(request), token if scheme.lower() == "bearer" else ""
    if context.batch_job_tokens.is_signed(token):
        return context.batch_job_tokens.open(token, job_id)
    return context.secret_lookups.look_up(
        token,
        lambda: context.batch_job_tokens.open(token, job_id),
        client_address.get(),
        untrusted_proxy=bool(request.state.untrusted_proxy),
    )


handle = http_function(build)
