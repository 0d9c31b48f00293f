"""Our own objects, in the order in which one comes of the other."""

from __future__ import annotations

from collections.abc import Iterator

from llmariner.diagnostics.api_resources import (
    API_SERVER_SOURCES,
    BROKERS,
    EVENT_POLICIES,
    FUNCTIONS,
    GATEWAYS,
    PING_SOURCES,
    ROUTES,
    STATEFUL_SETS,
    TRIGGERS,
)
from llmariner.diagnostics.result import Body, Finding, failed, named, ok, optional
from llmariner.diagnostics.snapshot import condition, labels, ready, spec, status
from llmariner.diagnostics.target import APPLY, Place
from llmariner.platform.kube import Resource
from llmariner.platform.kube.resources import CONFIG_MAPS, DEPLOYMENTS, JOBS, NAMESPACES, SECRETS

__all__ = [
    "SECRET_KEYS",
    "database",
    "events",
    "functions",
    "gateway",
    "identity",
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
"""The Secrets of an installation, and what must be in each."""

_BROUGHT = "llmariner-postgres"
_PART_OF = {"app.kubernetes.io/part-of": "llmariner"}


def namespaces(place: Place) -> Iterator[Finding]:
    """Ours, the models', the Gateway's; a namespace that goes takes no new objects."""
    gateways = [namespace for namespace, _ in _gateways(place)]
    for name in dict.fromkeys((place.namespace, place.models.namespace, *gateways)):
        found = place.reading.one(NAMESPACES, None, name)
        if found is None:
            yield failed(f"namespace {name}", "it is not there", f"Install: {APPLY}.")
        elif "deletionTimestamp" in found["metadata"]:
            yield failed(f"namespace {name}", "it is being deleted", f"Wait until it is gone, then {APPLY}.")
        else:
            yield ok(f"namespace {name}", "there")


def secrets(place: Place) -> Iterator[Finding]:
    """Their names and keys; values are looked at for nothing but being there."""
    there = {each["metadata"]["name"]: each.get("data") or {} for each in place.reading.all(SECRETS, place.namespace)}
    well = True
    for name, keys in SECRET_KEYS.items():
        lacking = [key for key in keys if not there.get(name, {}).get(key)]
        if lacking:
            well = False
            detail = f"{name} lacks {named(lacking)}" if name in there else f"there is no {name}"
            yield failed("secrets", detail, _mend(place, name))
    for namespace, name in sorted(_certificates(place)):
        if place.reading.get(SECRETS, namespace, name) is None:
            well = False
            detail = f"there is no {name} in {namespace}, the Gateway's certificate"
            bring = f"kubectl -n {namespace} create secret tls {name} --cert=FILE --key=FILE, or components/certificate"
            yield failed("secrets", detail, bring)
    if well:
        yield ok("secrets", named(SECRET_KEYS))
    if "llmariner-admin-key" in there:
        where = f"-n {place.namespace} {{}} secret llmariner-admin-key"
        show = f"kubectl {where.format('get')} -o jsonpath='{{.data.key}}' | base64 -d"
        note = f"Note the key (`{show}`), then `kubectl {where.format('delete')}`."
        yield optional("administrator's key", "the Secret llmariner-admin-key still shows it", note)


def _mend(place: Place, name: str) -> str:
    again = f"kubectl -n {place.namespace} delete job -l app.kubernetes.io/name=secrets --ignore-not-found; {APPLY}"
    if name == _BROUGHT:
        values = " ".join(f"--from-literal={key}=…" for key in ("host", "port", "database", "user", "password"))
        return f"kubectl -n {place.namespace} create secret generic {name} {values}; then {again}"
    return f"The Job `secrets` makes it: {again}"


def _certificates(place: Place) -> set[tuple[str, str]]:
    """(namespace, name) of the Secrets that our Gateways' listeners name."""
    return {
        (str(reference.get("namespace") or gateway["metadata"]["namespace"]), str(reference.get("name")))
        for gateway in _gateways(place).values()
        if gateway is not None
        for listener in spec(gateway).get("listeners") or ()
        for reference in (listener.get("tls") or {}).get("certificateRefs") or ()
    }


def _gateways(place: Place) -> dict[tuple[str, str], Body | None]:
    """Those that our routes name as (namespace, name), and what is there of each."""
    if not place.has("Gateway API"):
        return {}
    there = {(each["metadata"]["namespace"], each["metadata"]["name"]): each for each in place.reading.all(GATEWAYS)}
    named_ = {
        (str(parent.get("namespace") or place.namespace), str(parent.get("name")))
        for route in _routes(place)
        for parent in spec(route).get("parentRefs") or ()
    }
    return {key: there.get(key) for key in sorted(named_)}


def _routes(place: Place) -> list[Body]:
    """Ours: some ingresses of Knative put routes of their own beside them."""
    return [each for each in place.reading.all(ROUTES, place.namespace) if labels(each).items() >= _PART_OF.items()]


def jobs(place: Place) -> Iterator[Finding]:
    """The Jobs that make secrets and bring the database up to date. They are cleared away an hour after they are done."""
    there = place.reading.all(JOBS, place.namespace)
    for step in ("secrets", "migrations"):
        ours = [each for each in there if labels(each).get("app.kubernetes.io/name") == step]
        waits = [each for each in ours if ready(each, "Complete")]
        if ours and not waits:
            yield ok(f"{step} job", f"{named(each['metadata']['name'] for each in ours)} is complete")
        for job in waits:
            yield _unfinished(place, step, job)
        if not ours:
            yield _cleared(place, step)


def _unfinished(place: Place, step: str, job: Body) -> Finding:
    name, failure = job["metadata"]["name"], condition(status(job), "Failed")
    logs = f"kubectl -n {place.namespace} logs job/{name} --tail=20"
    if failure.get("status") == "True":
        again = f"kubectl -n {place.namespace} delete job {name}; {APPLY}"
        said = failure.get("message") or failure.get("reason") or "no reason given"
        return failed(f"{step} job", f"{name} gave up: {said}", f"`{logs}` says why; when that is mended: {again}")
    tries = f", {status(job)['failed']} tries failed" if status(job).get("failed") else ""
    return failed(f"{step} job", f"{name} is not complete{tries}", f"`{logs}` says what it waits for.")


def _cleared(place: Place, step: str) -> Finding:
    """Without the Job, what came of it tells."""
    if step == "secrets":
        done = place.reading.one(SECRETS, place.namespace, "llmariner-secrets") is not None
    else:
        services = place.reading.all(FUNCTIONS, place.namespace)
        done = bool(services) and not any(ready(each) for each in services)
    if done:
        return ok(f"{step} job", "done, and cleared away since")
    return failed(f"{step} job", "it is not there, nor what it would have done", f"It may be run at any time: {APPLY}.")


def database(place: Place) -> Iterator[Finding]:
    """What is always up beside the functions: PgBouncer, and PostgreSQL where it is ours."""
    faults, well = [], []
    for resource in (DEPLOYMENTS, STATEFUL_SETS):
        for each in place.reading.all(resource, place.namespace):
            if "serving.knative.dev/service" in labels(each) or not labels(each).items() >= _PART_OF.items():
                continue
            name, wanted = each["metadata"]["name"], int(spec(each).get("replicas", 1))
            there = int(status(each).get("readyReplicas") or 0)
            well.append(name)
            if not wanted or there < wanted:
                faults.append((resource.kind.lower(), name, f"{there} of {wanted or 1} ready"))
    for kind, name, why in faults:
        describe = f"kubectl -n {place.namespace} describe {kind} {name}"
        yield failed("database", f"{name}: {why}", f"`{describe}`, and its pods' logs, say what it waits for.")
    if "pgbouncer" not in well:
        yield failed("database", "there is no Deployment pgbouncer", f"Install: {APPLY}.")
    elif not faults:
        yield ok("database", f"{named(well)} ready")


def functions(place: Place) -> Iterator[Finding]:
    """Every function and consumer; also those that only a route or a Trigger still knows."""
    if not place.has("Knative Serving"):
        return
    there = {each["metadata"]["name"]: each for each in place.reading.all(FUNCTIONS, place.namespace)}
    for name in sorted(_referred(place) - there.keys()):
        yield failed("functions", f"{name} is not there, but requests or events are sent to it", f"Install: {APPLY}.")
    ours = {name: each for name, each in there.items() if labels(each).items() >= _PART_OF.items()}
    waiting = {name: why for name, each in ours.items() if (why := ready(each))}
    for name, why in sorted(waiting.items()):
        look = f"kubectl -n {place.namespace} get revisions,pods -l serving.knative.dev/service={name}"
        yield failed("functions", f"{name} is not ready: {why}", _function_mend(why, look))
    if not ours:
        yield failed("functions", "there is none", f"Install: {APPLY}.")
    elif not waiting:
        yield ok("functions", f"{len(ours)} ready")


def _function_mend(why: str, look: str) -> str:
    if "image" in why.lower():
        return f"Check IMAGE_REGISTRY in the overlay's settings.env, and that `make images` pushed there. {look}"
    return look


def _referred(place: Place) -> set[str]:
    """Functions that HTTPRoutes and Triggers lead to."""
    suffix = f".{place.namespace}.svc.cluster.local"
    found = set()
    if place.has("Gateway API"):
        for route in _routes(place):
            for rule in spec(route).get("rules") or ():
                for each in rule.get("filters") or ():
                    host = str((each.get("urlRewrite") or {}).get("hostname", ""))
                    found |= {host.removesuffix(suffix)} if host.endswith(suffix) else set()
    if place.has("Knative Eventing"):
        for trigger in place.reading.all(TRIGGERS, place.namespace):
            reference = (spec(trigger).get("subscriber") or {}).get("ref") or {}
            if reference.get("apiVersion") == FUNCTIONS.api_version:
                found.add(str(reference.get("name")))
    return found


def gateway(place: Place) -> Iterator[Finding]:
    """The Gateway of our routes, and the address that PUBLIC_HOST must lead to."""
    for (namespace, name), found in _gateways(place).items():
        describe = f"kubectl -n {namespace} describe gateway {name}"
        if found is None:
            yield failed("gateway", f"there is no Gateway {name} in {namespace}", f"Install: {APPLY}.")
            continue
        addresses = [str(each.get("value")) for each in status(found).get("addresses") or ()]
        if why := ready(found, "Accepted") or ready(found, "Programmed"):
            yield failed("gateway", why, describe)
        elif not addresses:
            yield failed("gateway", "it has no address", f"Give its Service an address (a load balancer). {describe}")
        else:
            yield ok("gateway", f"{place.settings.get('PUBLIC_HOST', '?')} must lead to {named(addresses)}")


def routes(place: Place) -> Iterator[Finding]:
    """That the Gateway takes every route."""
    if not place.has("Gateway API"):
        return
    there = _routes(place)
    faults = {each["metadata"]["name"]: why for each in there if (why := _refused(each))}
    for name, why in sorted(faults.items()):
        yield failed("routes", f"{name}: {why}", f"kubectl -n {place.namespace} describe httproute {name}")
    if not there:
        yield failed("routes", "there is none", f"Install: {APPLY}.")
    elif not faults:
        yield ok("routes", f"{len(there)} accepted")


def _refused(route: Body) -> str:
    parents = status(route).get("parents") or ()
    if not parents:
        return "no Gateway has looked at it"
    for parent in parents:
        for kind in ("Accepted", "ResolvedRefs"):
            if why := ready({"status": parent}, kind):
                return why
    return ""


def events(place: Place) -> Iterator[Finding]:
    """Broker, Triggers, sources."""
    if not place.has("Knative Eventing"):
        return
    if place.reading.one(BROKERS, place.namespace, "default") is None:
        yield failed("broker", "there is no Broker default", f"Install: {APPLY}.")
    else:
        yield from _all_ready(place, "broker", BROKERS)
    yield from _all_ready(place, "triggers", TRIGGERS)
    yield from _all_ready(place, "sources", PING_SOURCES, API_SERVER_SOURCES)


def identity(place: Place) -> Iterator[Finding]:
    """Where Knative asks who sends an event, that our functions can tell."""
    check, flag = "event identity", "authentication-oidc"
    if not place.has("Knative Eventing"):
        return
    features = place.reading.get(CONFIG_MAPS, "knative-eventing", "config-features") or {}
    if (features.get("data") or {}).get(flag, "disabled").lower() != "enabled":
        yield ok(check, f"{flag} is off")
    elif place.reading.one(EVENT_POLICIES, place.namespace, "broker") is not None:
        yield ok(check, f"{flag} is on, and functions have their tokens")
    else:
        bring = f"List components/event-identity in the overlay, then {APPLY}."
        yield failed(check, f"{flag} is on: the Broker refuses what functions publish", bring)


def _all_ready(place: Place, check: str, *resources: Resource) -> Iterator[Finding]:
    count, well = 0, True
    for resource in resources:
        for each in place.reading.all(resource, place.namespace):
            count += 1
            if why := ready(each):
                well = False
                name = each["metadata"]["name"]
                describe = f"kubectl -n {place.namespace} describe {resource.kind.lower()} {name}"
                yield failed(check, f"{name} is not ready: {why}", describe)
    if well and count:
        yield ok(check, f"{count} ready")
    elif not count:
        yield failed(check, "there is none", f"Install: {APPLY}.")
