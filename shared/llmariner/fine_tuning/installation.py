"""The fine-tuning of one installation, put together of its parts: a function imports those alone that it uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmariner.cached_once import cached_once
from llmariner.cluster_settings import WorkerClusterSettings
from llmariner.file_settings import FileSettings
from llmariner.inference_settings import InferenceSettings
from llmariner.job_settings import JobSettings
from llmariner.model_settings import ModelSettings
from llmariner.models.registry import ModelRegistry
from llmariner.object_settings import ObjectSettings, S3Settings
from llmariner.platform.database import Database
from llmariner.platform.jobs import Jobs
from llmariner.platform.objects import ObjectStore
from llmariner.settings import Secret, ServingSettings
from llmariner.tracking_settings import TrackingSettings

if TYPE_CHECKING:
    from llmariner.context import Context
    from llmariner.files.files import Files
    from llmariner.files.links import FileLinks
    from llmariner.files.upload_links import UploadLinks
    from llmariner.files.uploads import Uploads
    from llmariner.fine_tuning.adapter_weights import AdapterWeights
    from llmariner.fine_tuning.answer_grades import AnswerGrades
    from llmariner.fine_tuning.base_weights import BaseWeights
    from llmariner.fine_tuning.credentials import Credentials
    from llmariner.fine_tuning.event_feed import EventFeed
    from llmariner.fine_tuning.history import JobHistory
    from llmariner.fine_tuning.jobs import FineTuningJobs
    from llmariner.fine_tuning.permissions import CheckpointPermissions
    from llmariner.fine_tuning.reconciler import FineTuningReconciler
    from llmariner.fine_tuning.result_uploads import ResultUploads
    from llmariner.fine_tuning.tracked_runs import TrackedRuns
    from llmariner.fine_tuning.worker_tokens import WorkerTokens
    from llmariner.fine_tuning.workers import WorkerAddresses, Workers
    from llmariner.job_placement.worker_clusters import WorkerClusters
    from llmariner.vector_stores.inference import InferenceClient

__all__ = ["FineTuning", "make_fine_tuning"]


class FineTuning:
    """`jobs` and `files` raise Unavailable in an installation without them.

    `url`: of the functions, as processes of jobs reach them at home; `{function}` in it becomes the name of the called
    function. `workers`: the clusters on which jobs may run besides; None: none. `full_seconds`: how long one waits there.
    `serves_whole_models`: as of `FineTuningJobs`.
    """

    def __init__(
        self,
        database: Database,
        registry: ModelRegistry,
        settings: JobSettings,
        secrets: Sequence[Secret],
        *,
        jobs: Callable[[], Jobs],
        files: Callable[[], Files],
        links: Callable[[], tuple[FileLinks, UploadLinks]],
        uploads: Callable[[], Uploads],
        url: str,
        tracking: TrackingSettings,
        inference: Callable[[], InferenceClient],
        upload_bytes: int = FileSettings.upload_bytes,
        workers: Callable[[], WorkerClusters | None] = lambda: None,
        full_seconds: float = 300.0,
        serves_whole_models: bool = True,
        objects: Callable[[], ObjectStore],
        s3: S3Settings = S3Settings(),  # noqa: B008
    ) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._secrets = secrets
        self._jobs = jobs
        self._files = files
        self._links = links
        self._uploads = uploads
        self._url = url.rstrip("/")
        self._tracking = tracking
        self._inference = inference
        self._upload_bytes = upload_bytes
        self._workers = workers
        self._full_seconds = full_seconds
        self._serves_whole_models = serves_whole_models
        self._objects = objects
        self._s3 = s3

    @property
    def jobs(self) -> FineTuningJobs:
        """The jobs of projects."""
        from llmariner.fine_tuning.jobs import FineTuningJobs

        arguments = (self._database, self._settings, self._registry, self._jobs, self._tracking)
        return FineTuningJobs(*arguments, self._upload_bytes, self._workers(), self._serves_whole_models)

    @property
    def history(self) -> JobHistory:
        """Events and checkpoints of jobs."""
        from llmariner.fine_tuning.history import JobHistory

        return JobHistory(self._database)

    @cached_once
    def event_feed(self) -> EventFeed:
        """New events of jobs, for the followers of this process."""
        from llmariner.fine_tuning.event_feed import EventFeed

        return EventFeed(self.history)

    @property
    def permissions(self) -> CheckpointPermissions:
        """Permissions of projects to use checkpoints of others."""
        from llmariner.fine_tuning.permissions import CheckpointPermissions

        return CheckpointPermissions(self._database, self._registry)

    @property
    def credentials(self) -> Credentials:
        """Credentials of projects for tracking servers."""
        from llmariner.fine_tuning.credentials import Credentials

        return Credentials(self._database, self._tracking, self._secrets)

    @property
    def tracked_runs(self) -> TrackedRuns:
        """Sends the metrics of jobs to their integrations."""
        from llmariner.fine_tuning.tracked_runs import TrackedRuns
        from llmariner.platform.trackers.adapters import make_tracker

        return TrackedRuns(self._database, self._registry, self._files, self.credentials, self._tracking, make_tracker)

    @property
    def worker_tokens(self) -> WorkerTokens:
        """Tokens of the processes of jobs."""
        from llmariner.fine_tuning.worker_tokens import WorkerTokens

        return WorkerTokens(self._database, self._secrets)

    @property
    def adapter_weights(self) -> AdapterWeights:
        """What engines of a cluster fetch of tuned models."""
        from llmariner.fine_tuning.adapter_weights import AdapterWeights

        return AdapterWeights(self._registry, self._files, self._secrets)

    @cached_once
    def base_weights(self) -> BaseWeights:
        """What the pods of jobs fetch of base models."""
        from llmariner.fine_tuning.base_weights import BaseWeights

        return BaseWeights(self._database, self._registry, self._objects, self._s3)

    @property
    def workers(self) -> Workers:
        """The processes of jobs. Raises Unavailable as `files`."""
        from llmariner.fine_tuning.workers import Workers

        return Workers(self._database, self._registry, self._files(), *self._links(), self._addresses)

    @cached_once
    def result_uploads(self) -> ResultUploads:
        """What the processes of jobs send in parts. Raises Unavailable as `files`."""
        from llmariner.fine_tuning.result_uploads import ResultUploads

        files = self._files()  # an installation without a store has none
        return ResultUploads(self._database, self._objects(), files, self._uploads())

    @property
    def grades(self) -> AnswerGrades:
        """Grades of the answers that jobs and callers have."""
        from llmariner.fine_tuning.answer_grades import AnswerGrades

        return AnswerGrades(self._database, self._registry, self._inference())

    @cached_once
    def reconciler(self) -> FineTuningReconciler:
        """Makes what runs jobs do what is asked for."""
        from llmariner.fine_tuning.moves import MovableTrainings
        from llmariner.fine_tuning.reconciler import FineTuningReconciler
        from llmariner.job_placement.moves import Moves
        from llmariner.job_placement.places import JobPlaces

        places = JobPlaces(self._jobs, self._workers())
        movable = MovableTrainings(self._registry, self._settings)
        moves = Moves(self._database, places, movable, self._full_seconds)
        arguments = (self._database, self._registry, places, moves, self._files)
        return FineTuningReconciler(*arguments, self.worker_tokens, self._addresses)

    def _addresses(self, cluster_id: str | None) -> WorkerAddresses:
        from llmariner.fine_tuning.workers import WorkerAddresses

        clusters = None if cluster_id is None else self._workers()
        if cluster_id is not None and clusters is not None:
            url = clusters.control_plane_url(cluster_id).rstrip("/")
            return WorkerAddresses(url, url)
        workers, files = (self._url.replace("{function}", name) for name in ("fine-tuning-workers", "files"))
        return WorkerAddresses(workers, files)


def make_fine_tuning(context: Context) -> FineTuning:
    """The fine-tuning of a process's own installation."""
    env = context.env
    return FineTuning(
        context.database,
        context.registry,
        JobSettings.load(env),
        context.secrets.of_links,
        jobs=lambda: context.fine_tuning_processes,
        files=lambda: context.files,
        links=lambda: (context.file_links, context.upload_links),
        uploads=lambda: context.uploads,
        url=InferenceSettings.load(env).url,
        tracking=TrackingSettings.load(env),
        inference=lambda: context.inference,
        upload_bytes=FileSettings.load(env).upload_bytes,
        workers=lambda: context.job_clusters,
        full_seconds=WorkerClusterSettings.load(env).full_seconds,
        serves_whole_models=ModelSettings.load(env).copies or ServingSettings.load(env).adapter == "processes",
        objects=lambda: context.objects,
        s3=ObjectSettings.load(env).s3,
    )
