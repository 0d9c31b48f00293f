"""Checks of the platform's own objects, in order of their dependencies."""

from __future__ import annotations

from collections.abc import Iterator

from llmariner.diagnostics.api_resources import (
    API_SERVER_SOURCES,
    BROKERS,
    EVENT_POLICIES,
    GATEWAYS,
    HTTP_ROUTES,
    KNATIVE_SERVICES,
    PING_SOURCES,
    STATEFUL_SETS,
    TRIGGERS,
)
from llmariner.diagnostics.result import Body, CheckResult, failed, join_names, ok, optional
from llmariner.diagnostics.snapshot import condition, labels, not_ready_reason, spec, status
from llmariner.diagnostics.target import APPLY_COMMAND, Target
from llmariner.platform.kube import Resource
from llmariner.platform.kube.resources import CONFIG_MAPS, DEPLOYMENTS, JOBS, NAMESPACES, SECRETS

__all__ = [
    "SECRET_KEYS",
    "database",
    "event_identity",
    "events",
    "functions",
    "gateway",
    "jobs",
    "namespaces",
    "routes",
    "secrets",
]

SECRET_KEYS = {
    "llmariner-secrets": ("LLMARINER_PEPPER", "LLMARINER_SERVICE_SECRET"),
    "llmariner-postgres": ("host", "user", "password", "database"),
    "llmariner-pgbouncer": ("pgbouncer.ini", "userlist.txt"),
    "llmariner-database": ("LLMARINER_DATABASE_URL",),
}
"""The Secrets of an installation, and the keys that each must hold."""

_POSTGRES_SECRET = "llmariner-postgres"
_PLATFORM_LABELS = {"app.kubernetes.io/part-of": "llmariner"}


def namespaces(target: Target) -> Iterator[CheckResult]:
    """The namespaces of the platform, the models and the Gateways exist and are not being deleted."""
    gateways = [namespace for namespace, _ in _gateways(target)]
    for name in dict.fromkeys((target.namespace, target.models.namespace, *gateways)):
        found = target.snapshot.find_object(NAMESPACES, None, name)
        if found is None:
            yield failed(f"namespace {name}", "it is not there", f"Install: {APPLY_COMMAND}.")
        elif "deletionTimestamp" in found["metadata"]:
            yield failed(f"namespace {name}", "it is being deleted", f"Wait until it is gone, then {APPLY_COMMAND}.")
        else:
            yield ok(f"namespace {name}", "there")


def secrets(target: Target) -> Iterator[CheckResult]:
    """The Secrets exist with nonempty keys; values are not inspected further."""
    existing = {
        each["metadata"]["name"]: each.get("data") or {}
        for each in target.snapshot.list_objects(SECRETS, target.namespace)
    }
    healthy = True
    for name, keys in SECRET_KEYS.items():
        missing = [key for key in keys if not existing.get(name, {}).get(key)]
        if missing:
            healthy = False
            detail = f"{name} lacks {join_names(missing)}" if name in existing else f"there is no {name}"
            yield failed("secrets", detail, _secret_remedy(target, name))
    for namespace, name in sorted(_certificates(target)):
        if target.snapshot.get_object(SECRETS, namespace, name) is None:
            healthy = False
            detail = f"there is no {name} in {namespace}, the Gateway's certificate"
            hint = f"kubectl -n {namespace} create secret tls {name} --cert=FILE --key=FILE, or components/certificate"
            yield failed("secrets", detail, hint)
    if healthy:
        yield ok("secrets", join_names(SECRET_KEYS))
    if "llmariner-admin-key" in existing:
        arguments = f"-n {target.namespace} {{}} secret llmariner-admin-key"
        show = f"kubectl {arguments.format('get')} -o jsonpath='{{.data.key}}' | base64 -d"
        note = f"Note the key (`{show}`), then `kubectl {arguments.format('delete')}`."
        yield optional("administrator's key", "the Secret llmariner-admin-key still shows it", note)


def _secret_remedy(target: Target, name: str) -> str:
    rerun = f"kubectl -n {target.namespace} delete job -l app.kubernetes.io/name=secrets --ignore-not-found; {APPLY_COMMAND}"
    if name == _POSTGRES_SECRET:
        values = " ".join(f"--from-literal={key}=…" for key in ("host", "port", "database", "user", "password"))
        return f"kubectl -n {target.namespace} create secret generic {name} {values}; then {rerun}"
    return f"The Job `secrets` makes it: {rerun}"


def _certificates(target: Target) -> set[tuple[str, str]]:
    """(namespace, name) of the Secrets that the listeners of the platform's Gateways reference."""
    return {
        (str(reference.get("namespace") or gateway["metadata"]["namespace"]), str(reference.get("name")))
        for gateway in _gateways(target).values()
        if gateway is not None
        for listener in spec(gateway).get("listeners") or ()
        for reference in (listener.get("tls") or {}).get("certificateRefs") or ()
    }


def _gateways(target: Target) -> dict[tuple[str, str], Body | None]:
    """(namespace, name) → Gateway, for those that the platform's routes reference; None where one does not exist."""
    if not target.has_dependency("Gateway API"):
        return {}
    existing = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): each
        for each in target.snapshot.list_objects(GATEWAYS)
    }
    references = {
        (str(parent.get("namespace") or target.namespace), str(parent.get("name")))
        for route in _routes(target)
        for parent in spec(route).get("parentRefs") or ()
    }
    return {key: existing.get(key) for key in sorted(references)}


def _routes(target: Target) -> list[Body]:
    """The platform's HTTPRoutes, without those that some Knative ingresses create in the same namespace."""
    return [
        each
        for each in target.snapshot.list_objects(HTTP_ROUTES, target.namespace)
        if labels(each).items() >= _PLATFORM_LABELS.items()
    ]


def jobs(target: Target) -> Iterator[CheckResult]:
    """The secrets and migrations Jobs are complete. Kubernetes deletes them an hour after they finish."""
    existing = target.snapshot.list_objects(JOBS, target.namespace)
    for step in ("secrets", "migrations"):
        step_jobs = [each for each in existing if labels(each).get("app.kubernetes.io/name") == step]
        incomplete = [each for each in step_jobs if not_ready_reason(each, "Complete")]
        if step_jobs and not incomplete:
            yield ok(f"{step} job", f"{join_names(each['metadata']['name'] for each in step_jobs)} is complete")
        for job in incomplete:
            yield _unfinished_job_result(target, step, job)
        if not step_jobs:
            yield _missing_job_result(target, step)


def _unfinished_job_result(target: Target, step: str, job: Body) -> CheckResult:
    name, failure = job["metadata"]["name"], condition(status(job), "Failed")
    logs = f"kubectl -n {target.namespace} logs job/{name} --tail=20"
    if failure.get("status") == "True":
        rerun = f"kubectl -n {target.namespace} delete job {name}; {APPLY_COMMAND}"
        reason = failure.get("message") or failure.get("reason") or "no reason given"
        return failed(f"{step} job", f"{name} gave up: {reason}", f"`{logs}` says why; when that is mended: {rerun}")
    attempts = f", {status(job)['failed']} tries failed" if status(job).get("failed") else ""
    return failed(f"{step} job", f"{name} is not complete{attempts}", f"`{logs}` says what it waits for.")


def _missing_job_result(target: Target, step: str) -> CheckResult:
    """The result for a Job that does not exist: its effects show whether it ran."""
    if step == "secrets":
        done = target.snapshot.find_object(SECRETS, target.namespace, "llmariner-secrets") is not None
    else:
        services = target.snapshot.list_objects(KNATIVE_SERVICES, target.namespace)
        done = bool(services) and not any(not_ready_reason(each) for each in services)
    if done:
        return ok(f"{step} job", "done, and cleared away since")
    return failed(
        f"{step} job", "it is not there, nor what it would have done", f"It may be run at any time: {APPLY_COMMAND}."
    )


def database(target: Target) -> Iterator[CheckResult]:
    """PgBouncer is ready, and PostgreSQL where the installation includes it."""
    faults, healthy = [], []
    for resource in (DEPLOYMENTS, STATEFUL_SETS):
        for each in target.snapshot.list_objects(resource, target.namespace):
            if "serving.knative.dev/service" in labels(each) or not labels(each).items() >= _PLATFORM_LABELS.items():
                continue
            name, replicas = each["metadata"]["name"], int(spec(each).get("replicas", 1))
            ready_replicas = int(status(each).get("readyReplicas") or 0)
            healthy.append(name)
            if not replicas or ready_replicas < replicas:
                faults.append((resource.kind.lower(), name, f"{ready_replicas} of {replicas or 1} ready"))
    for kind, name, why in faults:
        describe = f"kubectl -n {target.namespace} describe {kind} {name}"
        yield failed("database", f"{name}: {why}", f"`{describe}`, and its pods' logs, say what it waits for.")
    if "pgbouncer" not in healthy:
        yield failed("database", "there is no Deployment pgbouncer", f"Install: {APPLY_COMMAND}.")
    elif not faults:
        yield ok("database", f"{join_names(healthy)} ready")


def functions(target: Target) -> Iterator[CheckResult]:
    """Every function and consumer is ready, including those that only a route or a Trigger references."""
    if not target.has_dependency("Knative Serving"):
        return
    existing = {
        each["metadata"]["name"]: each for each in target.snapshot.list_objects(KNATIVE_SERVICES, target.namespace)
    }
    for name in sorted(_referenced_functions(target) - existing.keys()):
        yield failed(
            "functions", f"{name} is not there, but requests or events are sent to it", f"Install: {APPLY_COMMAND}."
        )
    platform_objects = {
        name: each for name, each in existing.items() if labels(each).items() >= _PLATFORM_LABELS.items()
    }
    waiting = {name: why for name, each in platform_objects.items() if (why := not_ready_reason(each))}
    for name, why in sorted(waiting.items()):
        inspect = f"kubectl -n {target.namespace} get revisions,pods -l serving.knative.dev/service={name}"
        yield failed("functions", f"{name} is not ready: {why}", _function_remedy(why, inspect))
    if not platform_objects:
        yield failed("functions", "there is none", f"Install: {APPLY_COMMAND}.")
    elif not waiting:
        yield ok("functions", f"{len(platform_objects)} ready")


def _function_remedy(why: str, inspect: str) -> str:
    if "image" in why.lower():
        return f"Check IMAGE_REGISTRY in the overlay's settings.env, and that `make images` pushed there. {inspect}"
    return inspect


def _referenced_functions(target: Target) -> set[str]:
    """Names of the functions that HTTPRoutes and Triggers reference."""
    suffix = f".{target.namespace}.svc.cluster.local"
    found = set()
    if target.has_dependency("Gateway API"):
        for route in _routes(target):
            for rule in spec(route).get("rules") or ():
                for each in rule.get("filters") or ():
                    host = str((each.get("urlRewrite") or {}).get("hostname", ""))
                    found |= {host.removesuffix(suffix)} if host.endswith(suffix) else set()
    if target.has_dependency("Knative Eventing"):
        for trigger in target.snapshot.list_objects(TRIGGERS, target.namespace):
            reference = (spec(trigger).get("subscriber") or {}).get("ref") or {}
            if reference.get("apiVersion") == KNATIVE_SERVICES.api_version:
                found.add(str(reference.get("name")))
    return found


def gateway(target: Target) -> Iterator[CheckResult]:
    """The Gateway of the platform's routes is programmed; reports the address that PUBLIC_HOST must resolve to."""
    for (namespace, name), found in _gateways(target).items():
        describe = f"kubectl -n {namespace} describe gateway {name}"
        if found is None:
            yield failed("gateway", f"there is no Gateway {name} in {namespace}", f"Install: {APPLY_COMMAND}.")
            continue
        addresses = [str(each.get("value")) for each in status(found).get("addresses") or ()]
        if why := not_ready_reason(found, "Accepted") or not_ready_reason(found, "Programmed"):
            yield failed("gateway", why, describe)
        elif not addresses:
            yield failed("gateway", "it has no address", f"Give its Service an address (a load balancer). {describe}")
        else:
            yield ok("gateway", f"{target.settings.get('PUBLIC_HOST', '?')} must lead to {join_names(addresses)}")


def routes(target: Target) -> Iterator[CheckResult]:
    """The Gateway accepts every route."""
    if not target.has_dependency("Gateway API"):
        return
    existing = _routes(target)
    faults = {each["metadata"]["name"]: why for each in existing if (why := _rejection_reason(each))}
    for name, why in sorted(faults.items()):
        yield failed("routes", f"{name}: {why}", f"kubectl -n {target.namespace} describe httproute {name}")
    if not existing:
        yield failed("routes", "there is none", f"Install: {APPLY_COMMAND}.")
    elif not faults:
        yield ok("routes", f"{len(existing)} accepted")


def _rejection_reason(route: Body) -> str:
    parents = status(route).get("parents") or ()
    if not parents:
        return "no Gateway has looked at it"
    for parent in parents:
        for kind in ("Accepted", "ResolvedRefs"):
            if why := not_ready_reason({"status": parent}, kind):
                return why
    return ""


def events(target: Target) -> Iterator[CheckResult]:
    """The Broker, Triggers and sources are ready."""
    if not target.has_dependency("Knative Eventing"):
        return
    if target.snapshot.find_object(BROKERS, target.namespace, "default") is None:
        yield failed("broker", "there is no Broker default", f"Install: {APPLY_COMMAND}.")
    else:
        yield from _readiness(target, "broker", BROKERS)
    yield from _readiness(target, "triggers", TRIGGERS)
    yield from _readiness(target, "sources", PING_SOURCES, API_SERVER_SOURCES)


def event_identity(target: Target) -> Iterator[CheckResult]:
    """Where Knative authenticates event senders, the functions have tokens."""
    check, flag = "event identity", "authentication-oidc"
    if not target.has_dependency("Knative Eventing"):
        return
    features = target.snapshot.get_object(CONFIG_MAPS, "knative-eventing", "config-features") or {}
    if (features.get("data") or {}).get(flag, "disabled").lower() != "enabled":
        yield ok(check, f"{flag} is off")
    elif target.snapshot.find_object(EVENT_POLICIES, target.namespace, "broker") is not None:
        yield ok(check, f"{flag} is on, and functions have their tokens")
    else:
        hint = f"List components/event-identity in the overlay, then {APPLY_COMMAND}."
        yield failed(check, f"{flag} is on: the Broker refuses what functions publish", hint)


def _readiness(target: Target, check: str, *resources: Resource) -> Iterator[CheckResult]:
    count, healthy = 0, True
    for resource in resources:
        for each in target.snapshot.list_objects(resource, target.namespace):
            count += 1
            if why := not_ready_reason(each):
                healthy = False
                name = each["metadata"]["name"]
                describe = f"kubectl -n {target.namespace} describe {resource.kind.lower()} {name}"
                yield failed(check, f"{name} is not ready: {why}", describe)
    if healthy and count:
        yield ok(check, f"{count} ready")
    elif not count:
        yield failed(check, "there is none", f"Install: {APPLY_COMMAND}.")
