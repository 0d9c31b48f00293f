"""Records what became of a changed Job (`batch/v1`) of the cluster: a batch job, a fine-tuning job's process, a notebook.

The state is read from the cluster and not from the event, so events may be late, duplicate or out of order. The periodic
sweep makes up for lost events.
"""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event, MalformedEvent

_BATCH_JOB, _FINE_TUNING_JOB, _NOTEBOOK = "bj-", "ftjob-", "nb-"


def consume(context: Context, event: Event) -> None:
    """Idempotent. The data is a reference to the Job, as an ApiServerSource writes it; its name is the id of the port."""
    name = event.data.get("name")
    if not isinstance(name, str) or not name:
        raise MalformedEvent("The data must be a reference to a Job, with its name.")
    if name.startswith(_BATCH_JOB):
        context.batch_job_reconciler.reconcile(name)
    elif name.startswith(_FINE_TUNING_JOB):
        context.fine_tuning.reconciler.reconcile(name.rpartition("-")[0])
    elif name.startswith(_NOTEBOOK):
        context.notebooks.reconciler.reconcile(name)


# Events of Kubernetes are not in the outbox; only the name is taken from one.
handle = event_function(consume, from_outbox=False)
