"""Records what models and jobs of a cluster hold, as Kueue admits and evicts their Workloads.

The state is read from the cluster and not from the event, so events may be late, duplicate or out of order. The periodic
sweep has all Workloads compared, which makes up for lost events.
"""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event, MalformedEvent
from llmariner.showback.events import CHECK_REQUESTED
from llmariner.showback.installation import cluster_allocations


def consume(context: Context, event: Event) -> None:
    """Idempotent. The data is a reference to a Workload, as an ApiServerSource writes it, or a request to compare all."""
    allocations = cluster_allocations(context.env, context.database)
    if allocations is None:
        return
    if event.type == CHECK_REQUESTED:
        allocations.reconcile_all()
        return
    namespace, name = event.data.get("namespace"), event.data.get("name")
    if not (isinstance(namespace, str) and isinstance(name, str) and namespace and name):
        raise MalformedEvent("The data must be a reference to a Workload, with its namespace and name.")
    allocations.reconcile(namespace, name)


# Events of Kubernetes are not in the outbox; only names are taken from them.
handle = event_function(consume, from_outbox=False)
