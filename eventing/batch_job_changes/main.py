"""Records what became of a batch job whose Job changed on the cluster.

The state is read from the cluster and not from the event, so events may be late, duplicate or out of order. The periodic
sweep makes up for lost events.
"""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event, MalformedEvent

_PREFIX = "bj-"


def consume(context: Context, event: Event) -> None:
    """Idempotent. The data is a reference to the Job, as an ApiServerSource writes it; its name is the job's id."""
    name = event.data.get("name")
    if not isinstance(name, str) or not name:
        raise MalformedEvent("The data must be a reference to a Job, with its name.")
    if name.startswith(_PREFIX):
        context.batch_job_reconciler.reconcile(name)


# Events of Kubernetes are not in the outbox; only the name is taken from one.
handle = event_function(consume, from_outbox=False)
