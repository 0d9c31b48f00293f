"""Kubernetes' API of one machine that has no Kubernetes: a project's jobs, notebooks and engines as pods."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from starlette.responses import Response, StreamingResponse

from llmariner.clusters.cluster import LOCAL_CLUSTER_ID
from llmariner.context import Context
from llmariner.errors import NotFound, PlatformError
from llmariner.http.pod_watches import MAX_PODS, PodWatches
from llmariner.http.resources.batch_job_output import OutputWatches, read_on
from llmariner.http.tunneled_responses import send_status
from llmariner.sessions.kubernetes_requests import KubernetesRequest
from llmariner.sessions.query_parameters import first_values, whole_number
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller

if TYPE_CHECKING:
    from llmariner.sessions.machine.pods import MachinePod, MachinePods

__all__ = ["MachineApi"]

_MAX_PODS = 500
_COMMIT_SECONDS = 2.0
"""A change is committed some time after the time that it has."""
_INSTEAD = {
    "exec": "`llma batch jobs exec` runs a program in a job",
    "attach": "`kubectl logs -f` shows the output of a job",
    "portforward": "a job on this machine listens on the machine itself",
}


class NotOnOneMachine(PlatformError):
    """Kubernetes does this and one machine does not."""

    status: ClassVar[int] = 405
    type: ClassVar[str] = "invalid_request_error"
    code = "not_on_one_machine"


class MachineApi:
    """Of one process, for its event loop. What serves it is imported at the first request."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._watches = OutputWatches(lambda: self._pods)
        self._pod_watches = PodWatches(lambda project_id: self._pods.newest(project_id, MAX_PODS))

    def serves(self, cluster_id: str) -> bool:
        """Whether the cluster of that id is this machine."""
        return cluster_id == LOCAL_CLUSTER_ID and self._context.clusters.machine is not None

    def respond(self, caller: Caller, request: KubernetesRequest, headers: Iterable[tuple[bytes, bytes]]) -> Response:
        """The response to a request that the caller may send. Blocks. Raises PlatformError for what is not there."""
        from llmariner.sessions.machine.objects import discovery, event_list
        from llmariner.sessions.machine.pods import SCOPES

        fields = [(name, value) for name, value in headers if name in (b"accept", b"user-agent")]
        if not request.resource:
            return _json(discovery(request.path, dict(fields).get(b"user-agent", b"")))
        if (request.group, request.resource, request.verb) == ("", "events", "list"):
            return _json(event_list())
        if request.group or request.resource != "pods":
            raise NotFound(
                f"This machine has no Kubernetes, and no {request.resource}: the jobs, notebooks and engines of your "
                "project are its pods. See `kubectl get pods`, `kubectl logs`."
            )
        if request.verb == "connect":
            what, instead = request.subresource, _INSTEAD[request.subresource]
            raise NotOnOneMachine(f"This machine has no Kubernetes, and no {what} of pods: {instead}.")
        kinds = [kind for kind, scope in SCOPES.items() if scope in caller.scopes]
        if request.subresource == "log":
            return self._log(caller, request, kinds)
        accept = b",".join(value for name, value in fields if name == b"accept")
        if request.verb == "watch":
            return self._watch(caller, request, kinds, accept)
        read_at = time.time()
        if request.name:
            pods, next_ = [self._pods.get(caller.key_owner.project_id, kinds, request.name)], ""
        else:
            pods, next_ = self._page(caller.key_owner.project_id, kinds, request)
        return _json(_shown(request, pods, next_, accept, read_at))

    @property
    def _pods(self) -> MachinePods:
        from llmariner.sessions.machine.engines import ProjectEngines
        from llmariner.sessions.machine.pods import MachinePods

        context = self._context
        engines = ProjectEngines(context.database, context.clusters.engines)
        return MachinePods(context.database, context.batch_jobs, context.notebooks.store, lambda: context.jobs, engines)

    def _page(self, project_id: str, kinds: list[str], request: KubernetesRequest) -> tuple[list[MachinePod], str]:
        query = first_values(request.query)
        size = min(whole_number(query, "limit", 0) or _MAX_PODS, _MAX_PODS)
        is_selected = _selection(request)
        found, next_ = self._pods.page(project_id, kinds, after=query.get("continue", ""), limit=size)
        return [each for each in found if is_selected(each)], next_

    def _watch(self, caller: Caller, request: KubernetesRequest, kinds: list[str], accept: bytes) -> Response:
        from llmariner.sessions.machine.pods import SCOPES

        query, project_id = first_values(request.query), caller.key_owner.project_id
        # Zero is no limit, as for Kubernetes' API server.
        seconds = whole_number(query, "timeoutSeconds", 0) or math.inf
        version = whole_number(query, "resourceVersion", 0)
        selected = _selection(request)
        since = version / 1000 - _COMMIT_SECONDS if version else None

        def allowed() -> None:
            for kind in kinds:
                check_still_allowed(self._context.database, caller, SCOPES[kind])

        async def lines() -> AsyncGenerator[bytes, None]:
            shown = set[str]()
            async with aclosing(self._pod_watches.watch(project_id, since, seconds, allowed)) as changes:
                async for kind, pod in changes:
                    if pod.kind in kinds and (said := _said(kind, pod.name, shown, selected=selected(pod))):
                        document = _shown(request, [pod], "", accept, pod.changed_at)
                        yield json.dumps({"type": said, "object": document}).encode() + b"\n"

        return _StreamedResponse(lambda: self._pod_watches.check_room(project_id), lines(), None, "application/json")

    def _log(self, caller: Caller, request: KubernetesRequest, kinds: list[str]) -> Response:
        from llmariner.sessions.machine.engines import without_folders
        from llmariner.sessions.machine.log_options import LogOptions, start_of_tail
        from llmariner.sessions.machine.pods import ENGINE, NOTEBOOK, SCOPES

        options = LogOptions.parse(request.query)
        pods, project_id = self._pods, caller.key_owner.project_id
        pod = pods.get(project_id, kinds, request.name)
        if pod.kind == NOTEBOOK:  # JupyterLab writes its token there, and what its users ask for
            raise NotOnOneMachine(
                "The log of a notebook's server is not shown: `llma workspace notebooks get` says why one failed, and its "
                "terminals show what runs in it."
            )
        options.check_since(time.time() - (pod.started_at or time.time()))
        read = partial(pods.output, pod.name)
        shown = without_folders if pod.kind == ENGINE else bytes
        start = 0 if options.tail_lines is None else start_of_tail(read, options.tail_lines)
        if not options.follow:
            parts = read_on(read(start), read)
            return _StreamedResponse(lambda: None, _each(parts, shown), options.limit_bytes)
        allowed = partial(check_still_allowed, self._context.database, caller, SCOPES[pod.kind])
        parts = self._watches.follow(project_id, pod.name, start, allowed)
        room = partial(self._watches.check_room, project_id)
        return _StreamedResponse(room, _each(parts, shown), options.limit_bytes)


class _StreamedResponse(Response):
    """Parts as they come, up to `limit` bytes. `check_room` may refuse it, in the event loop."""

    def __init__(
        self,
        check_room: Callable[[], None],
        parts: AsyncGenerator[bytes, None],
        limit: int | None,
        content: str = "text/plain; charset=utf-8",
    ) -> None:
        super().__init__()
        self._check_room = check_room
        self._parts = parts
        self._limit = limit
        self._content = content

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            self._check_room()
        except PlatformError as error:
            await send_status(scope, send, error)
            return
        headers = {"x-content-type-options": "nosniff"}
        sent = StreamingResponse(self._limited(), headers=headers, media_type=self._content)
        await sent(scope, receive, send)

    async def _limited(self) -> AsyncIterator[bytes]:
        yield b""  # the head goes out with it: a job may write nothing for an hour
        left = self._limit
        async with aclosing(self._parts) as parts:
            async for part in parts:
                yield part if left is None else part[:left]
                if left is not None and (left := left - len(part)) <= 0:
                    return


async def _each(parts: AsyncGenerator[bytes, None], shown: Callable[[bytes], bytes]) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
        async for part in parts:
            yield shown(part)


def _selection(request: KubernetesRequest) -> Callable[[MachinePod], bool]:
    """Whether a pod is selected. InvalidRequest for a wrong selector, whether there are pods or not."""
    from llmariner.sessions.machine.objects import labels, pod_fields
    from llmariner.sessions.machine.selectors import matches

    query, namespace = first_values(request.query), request.namespace
    by_label, by_field = query.get("labelSelector", ""), query.get("fieldSelector", "")
    for selector, param in ((by_label, "labelSelector"), (by_field, "fieldSelector")):
        matches(selector, {}, param)
    return lambda pod: (
        matches(by_label, labels(pod), "labelSelector")
        and matches(by_field, pod_fields(pod, namespace), "fieldSelector")
    )


def _said(kind: str, name: str, shown: set[str], *, selected: bool) -> str:
    """What a watcher that selects pods is sent of a change; empty: nothing. `shown`: the pods that it knows as selected."""
    if kind == "DELETED" or not selected:
        known = name in shown or (kind == "DELETED" and selected)
        shown.discard(name)
        return "DELETED" if known else ""
    shown.add(name)
    return kind


def _shown(
    request: KubernetesRequest, pods: list[MachinePod], next_: str, accept: bytes, read_at: float
) -> dict[str, Any]:
    from llmariner.sessions.machine.objects import pod_list, pod_object, pod_table

    if b"as=Table" in accept and b"v=v1;" in accept + b";":
        whole = first_values(request.query).get("includeObject") == "Object"
        return pod_table(pods, request.namespace, next_, read_at, whole=whole)
    if request.name or request.verb == "watch":
        return pod_object(pods[0], request.namespace)
    return pod_list(pods, request.namespace, next_, read_at)


def _json(document: dict[str, Any]) -> Response:
    return Response(json.dumps(document), media_type="application/json")
