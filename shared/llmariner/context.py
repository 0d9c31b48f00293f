"""The composition root: chooses adapters by the environment, and creates each on first use.

Imports stand inside the properties on purpose: a function pays only for what its route uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmariner.cached_once import cached_once
from llmariner.environment import Environment, environment
from llmariner.errors import Unavailable
from llmariner.gateway_settings import ControlPlaneSettings, GatewaySettings, SecretSettings

if TYPE_CHECKING:
    from llmariner.batch_jobs.batch_jobs import BatchJobs
    from llmariner.batch_jobs.job_tokens import JobTokens
    from llmariner.batch_jobs.reconciler import Reconciler
    from llmariner.batch_jobs.result_uploads import ResultUploads
    from llmariner.clusters.installation import ClusterInstallation
    from llmariner.control_plane import InProcessControlPlane
    from llmariner.files.external_objects import ExternalObjects
    from llmariner.files.files import Files
    from llmariner.files.links import FileLinks
    from llmariner.files.upload_links import UploadLinks
    from llmariner.files.uploads import Uploads
    from llmariner.fine_tuning.installation import FineTuning
    from llmariner.gateway.authentication.failed_attempts import ThrottledLookups
    from llmariner.gateway.control_plane.http_client import HttpControlPlane
    from llmariner.gateway.control_plane.port import ControlPlane
    from llmariner.gateway.state import Gateway
    from llmariner.job_placement.worker_clusters import WorkerClusters
    from llmariner.limits.budgets import Budgets
    from llmariner.limits.leases import Leases
    from llmariner.limits.rules import Limits
    from llmariner.models.aliases import ModelAliases
    from llmariner.models.registry import ModelRegistry
    from llmariner.models.source_credentials import SourceCredentials
    from llmariner.models.weights import WeightFetcher
    from llmariner.notebooks.installation import NotebookInstallation
    from llmariner.platform.capacity import Capacity
    from llmariner.platform.database import Database
    from llmariner.platform.events.broker import Publisher
    from llmariner.platform.events.deliveries import Deliveries
    from llmariner.platform.jobs import Jobs
    from llmariner.platform.objects import ObjectStore
    from llmariner.platform.serving import Serving
    from llmariner.platform.serving.waiting_requests import WaitingRequests
    from llmariner.platform.vectors import VectorIndex
    from llmariner.tenancy.authenticator import Authenticator
    from llmariner.tenancy.background_work import BackgroundTokens
    from llmariner.tenancy.keys.store import Keys
    from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
    from llmariner.usage.batch_writer import BatchWriter
    from llmariner.usage.ledger import Ledger
    from llmariner.usage.prices import Prices
    from llmariner.vector_stores.file_batches import FileBatches
    from llmariner.vector_stores.inference import InferenceClient
    from llmariner.vector_stores.ingest.index_step import ChunkIndexer
    from llmariner.vector_stores.ingest.parse_step import DocumentParser
    from llmariner.vector_stores.search import VectorStoreSearch
    from llmariner.vector_stores.store_files import StoreFiles
    from llmariner.vector_stores.stores import VectorStores

__all__ = ["Context"]


class Context:
    """The services of one process.

    Standalone mode creates one for all functions, and sets the adapters that it provides.
    """

    def __init__(self, env: Environment | None = None) -> None:
        self.env = environment() if env is None else env

    @cached_once
    def secrets(self) -> SecretSettings:
        """The pepper and the service secret."""
        return SecretSettings.load(self.env)

    @cached_once
    def database(self) -> Database:
        """The database of `LLMARINER_DATABASE_URL`."""
        from llmariner.platform.database import Database
        from llmariner.settings import DatabaseSettings

        return Database(DatabaseSettings.load(self.env))

    @cached_once
    def keys(self) -> Keys:
        """The store of API keys."""
        from llmariner.tenancy.keys.store import Keys

        return Keys(self.database, self.secrets.pepper)

    @cached_once
    def clusters(self) -> ClusterInstallation:
        """The clusters on which work runs."""
        from llmariner.clusters.installation import ClusterInstallation
        from llmariner.job_placement.cluster_reports import request_reported_jobs

        return ClusterInstallation(self.database, self.secrets, self.env, request_reported_jobs)

    @cached_once
    def authenticator(self) -> Authenticator:
        """Authenticates callers."""
        from llmariner.tenancy.authenticator import Authenticator

        return Authenticator(self.database, self.secrets.pepper)

    @cached_once
    def secret_lookups(self) -> ThrottledLookups:
        """Limits lookups of unknown keys and tokens."""
        from llmariner.gateway.authentication.failed_attempts import ThrottledLookups

        return ThrottledLookups(GatewaySettings.load(self.env).unknown_keys_per_minute)

    @cached_once
    def identity(self) -> TokenSignIn | None:
        """Sign-in through the issuer of `LLMARINER_OIDC_ISSUER`; None if it is not set."""
        from llmariner.tenancy.sign_in.installation import token_sign_in

        return token_sign_in(self.env, self.database, self.authenticator)

    @cached_once
    def background_tokens(self) -> BackgroundTokens:
        """Tokens by which background work calls the token path."""
        from llmariner.tenancy.background_work import BackgroundTokens

        return BackgroundTokens(self.secrets.service)

    @cached_once
    def inference(self) -> InferenceClient:
        """A client of the platform's own token path, at `LLMARINER_INFERENCE_URL`."""
        from llmariner.inference_settings import InferenceSettings
        from llmariner.vector_stores.inference import InferenceClient

        return InferenceClient(InferenceSettings.load(self.env), self.background_tokens)

    @cached_once
    def document_parser(self) -> DocumentParser:
        """Parses the files of vector stores."""
        from llmariner.vector_stores.ingest.parse_step import DocumentParser

        return DocumentParser(self.database, self.files, self.inference)

    @cached_once
    def chunk_indexer(self) -> ChunkIndexer:
        """Embeds and indexes the chunks of files of vector stores."""
        from llmariner.vector_stores.embedder import Embedder
        from llmariner.vector_stores.ingest.index_step import ChunkIndexer

        return ChunkIndexer(self.database, self.vectors, Embedder(self.inference))

    @cached_once
    def vector_store_search(self) -> VectorStoreSearch:
        """Searches vector stores. Raises Unavailable in an installation without an index of them."""
        from llmariner.vector_stores.installation import vector_store_search

        return vector_store_search(self.env, self.database, self.required_vectors, self.inference)

    @cached_once
    def limits(self) -> Limits:
        """Limits on requests, tokens and concurrency."""
        from llmariner.limits.rules import Limits

        return Limits(self.database)

    @cached_once
    def budgets(self) -> Budgets:
        """Budgets."""
        from llmariner.limits.budgets import Budgets

        return Budgets(self.database)

    @cached_once
    def leases(self) -> Leases:
        """Leases of quota to gateway instances."""
        from llmariner.limits.leases import Leases

        return Leases(self.database, GatewaySettings.load(self.env).default_limit)

    @cached_once
    def prices(self) -> Prices:
        """The price list."""
        from llmariner.usage.prices import Prices

        return Prices(self.database)

    @cached_once
    def registry(self) -> ModelRegistry:
        """The model registry."""
        from llmariner.model_settings import ModelSettings
        from llmariner.models.registry import ModelRegistry

        return ModelRegistry(self.database, ModelSettings.load(self.env).locations)

    @cached_once
    def model_aliases(self) -> ModelAliases:
        """Aliases of models."""
        from llmariner.models.aliases import ModelAliases

        return ModelAliases(self.database)

    @cached_once
    def vector_stores(self) -> VectorStores:
        """Vector stores."""
        from llmariner.vector_store_settings import VectorStoreSettings
        from llmariner.vector_stores.stores import VectorStores

        return VectorStores(self.database, VectorStoreSettings.load(self.env))

    @cached_once
    def vector_store_files(self) -> StoreFiles:
        """Files of vector stores."""
        from llmariner.vector_store_settings import VectorStoreSettings
        from llmariner.vector_stores.store_files import StoreFiles

        return StoreFiles(self.database, VectorStoreSettings.load(self.env))

    @cached_once
    def vector_store_file_batches(self) -> FileBatches:
        """Batches of files of vector stores."""
        from llmariner.vector_store_settings import VectorStoreSettings
        from llmariner.vector_stores.file_batches import FileBatches

        return FileBatches(self.database, VectorStoreSettings.load(self.env))

    @cached_once
    def ledger(self) -> Ledger:
        """The usage ledger."""
        from llmariner.usage.ledger import Ledger

        return Ledger(self.database)

    @cached_once
    def batch_writer(self) -> BatchWriter:
        """Writes ledger events of gateway instances in batches."""
        from llmariner.usage.batch_writer import BatchWriter

        return BatchWriter(self.ledger.record)

    @cached_once
    def deliveries(self) -> Deliveries:
        """Event deliveries. No subscribers: only the dispatcher of standalone mode delivers."""
        from llmariner.platform.events.deliveries import Deliveries

        return Deliveries(self.database, ())

    @cached_once
    def objects(self) -> ObjectStore:
        """The store of `LLMARINER_OBJECTS`: the bytes of files."""
        from llmariner.files.installation import object_store

        return object_store(self.env)

    @cached_once
    def external_objects(self) -> ExternalObjects:
        """The objects outside the store that projects may make files of: in S3, where the store is."""
        from llmariner.files.installation import external_objects

        return external_objects(self.env, lambda: self.objects)

    @cached_once
    def files(self) -> Files:
        """The files of projects. Raises Unavailable in an installation without a store for them."""
        from llmariner.files.installation import make_files

        return make_files(self)

    @cached_once
    def file_links(self) -> FileLinks:
        """Links to the contents of files. Raises Unavailable as `files`."""
        from llmariner.files.links import FileLinks

        return FileLinks(self.database, self.files, self.secrets.of_links)

    @cached_once
    def upload_links(self) -> UploadLinks:
        """Links to upload. Raises Unavailable as `files`."""
        from llmariner.files.upload_links import UploadLinks

        return UploadLinks(self.database, self.files.settings, self.secrets.of_links)

    @cached_once
    def uploads(self) -> Uploads:
        """The uploads of files in parts. Raises Unavailable as `files`."""
        from llmariner.files.uploads import Uploads

        settings = self.files.settings  # an installation without a store has none
        return Uploads(self.database, self.objects, settings)

    @cached_once
    def jobs(self) -> Jobs:
        """What runs jobs; standalone mode sets its own. Raises Unavailable in an installation without it."""
        from llmariner.batch_jobs.installation import cluster_jobs

        return cluster_jobs(self.env, self.database, lambda: self.file_links, lambda: self.batch_job_tokens)

    @cached_once
    def batch_job_tokens(self) -> JobTokens:
        """Tokens of the pods of batch jobs."""
        from llmariner.batch_jobs.job_tokens import JobTokens

        return JobTokens(self.database, self.secrets.of_links)

    @cached_once
    def batch_job_results(self) -> ResultUploads:
        """What takes the files that pods of batch jobs leave."""
        from llmariner.batch_jobs.installation import result_uploads

        return result_uploads(self.env, self.database, self.clusters, lambda: self.files, lambda: self.upload_links)

    @cached_once
    def batch_jobs(self) -> BatchJobs:
        """Batch jobs."""
        from llmariner.batch_jobs.batch_jobs import BatchJobs
        from llmariner.job_settings import JobSettings

        return BatchJobs(self.database, JobSettings.load(self.env), lambda: self.jobs, self.job_clusters)

    @cached_once
    def job_clusters(self) -> WorkerClusters:
        """The worker clusters on which jobs may run."""
        from llmariner.batch_jobs.installation import worker_clusters

        return worker_clusters(
            self.env, self.database, self.clusters, lambda: self.file_links, lambda: self.batch_job_tokens
        )

    @cached_once
    def batch_job_reconciler(self) -> Reconciler:
        """Makes what runs jobs do what batch jobs ask for."""
        from llmariner.batch_jobs.reconciler import Reconciler
        from llmariner.job_settings import JobSettings

        return Reconciler(
            self.database,
            lambda: self.jobs,
            lambda: self.files,
            network=JobSettings.load(self.env).network,
            workers=self.job_clusters,
            full_seconds=self.clusters.settings.full_seconds,
        )

    @cached_once
    def notebooks(self) -> NotebookInstallation:
        """Notebooks; standalone mode sets what runs them."""
        from llmariner.notebooks.installation import NotebookInstallation

        return NotebookInstallation(self.database, self.keys, self.secrets, self.env)

    @property
    def fine_tuning_processes(self) -> Jobs:
        """What runs fine-tuning jobs. Raises Unavailable in an installation without it."""
        from llmariner.job_settings import JobSettings

        JobSettings.load(self.env).check_training()
        return self.jobs

    @cached_once
    def capacity(self) -> Capacity:
        """What capacity is used for; standalone mode sets its own. Raises Unavailable in an installation without it."""
        from llmariner.quotas.installation import cluster_capacity

        return cluster_capacity(self.env)

    @cached_once
    def fine_tuning(self) -> FineTuning:
        """Fine-tuning jobs."""
        from llmariner.fine_tuning.installation import make_fine_tuning

        return make_fine_tuning(self)

    @cached_once
    def publisher(self) -> Publisher | None:
        """Publishes events to the Broker of `LLMARINER_BROKER_URL`; None if it is not set."""
        from llmariner.settings import BrokerSettings

        settings = BrokerSettings.load(self.env)
        if not settings.url:
            return None
        from llmariner.platform.events.broker import Publisher

        return Publisher(self.database, settings)

    @cached_once
    def source_credentials(self) -> SourceCredentials:
        """Credentials of projects for the sources of models."""
        from llmariner.models.source_credentials import SourceCredentials

        return SourceCredentials(self.database, self.secrets.of_links)

    @cached_once
    def weights(self) -> WeightFetcher:
        """Loads model weights; standalone mode sets its own."""
        from llmariner.models.cluster_weights import cluster_weights

        return cluster_weights(self)

    @cached_once
    def serving(self) -> Serving:
        """The serving adapter of `LLMARINER_SERVING`; standalone mode sets `processes`."""
        from llmariner.settings import ServingSettings

        settings = ServingSettings.load(self.env)
        if settings.adapter == "static":
            from llmariner.platform.serving.static import StaticServing

            return StaticServing(settings.static)
        if settings.adapter == "processes":
            raise ValueError(
                "LLMARINER_SERVING=processes is for `llma up`; a function on its own uses remote or static."
            )
        if settings.adapter == "kserve":
            from llmariner.models.installation import kserve_serving
            from llmariner.models.placed_serving import placed_serving

            secret = self.secrets.of_links[0]
            home = kserve_serving(self.env, self.registry, self.ledger, self.batch_writer, secret)
            return placed_serving(self, home)
        from llmariner.platform.serving.remote import RemoteServing

        return RemoteServing(self.http_control_plane)

    @cached_once
    def vectors(self) -> VectorIndex:
        """The vector index of `LLMARINER_MILVUS_URI`; standalone mode sets its own if that is not set."""
        from llmariner.platform.vectors.milvus import MilvusIndex
        from llmariner.vector_settings import VectorSettings

        settings = VectorSettings.load(self.env)
        return MilvusIndex(lambda _seconds: settings)

    @property
    def required_vectors(self) -> VectorIndex:
        """As `vectors`. Raises Unavailable in an installation without an index of vector stores."""
        try:
            return self.vectors
        except ValueError as error:
            raise Unavailable(
                "This installation has no index of vector stores: an operator sets one with LLMARINER_MILVUS_URI.",
                code="no_vector_index",
                headers={"x-should-retry": "false"},
            ) from error

    @cached_once
    def waiting_requests(self) -> WaitingRequests:
        """Numbers of waiting requests, as gateway instances report them."""
        from llmariner.platform.serving.waiting_requests import WaitingRequests

        return WaitingRequests()

    @cached_once
    def http_control_plane(self) -> HttpControlPlane:
        """The control plane at `LLMARINER_CONTROL_URL`."""
        from llmariner.gateway.control_plane.http_client import HttpControlPlane

        return HttpControlPlane(ControlPlaneSettings.load(self.env), self.secrets.service, issuer="function")

    @cached_once
    def in_process_control_plane(self) -> InProcessControlPlane:
        """The control plane on this process's own database and serving port."""
        from llmariner.control_plane import make_control_plane

        return make_control_plane(self)

    @cached_once
    def control_plane(self) -> ControlPlane:
        """The control plane: over HTTP if `LLMARINER_CONTROL_URL` is set, else in this process."""
        return self.http_control_plane if self.env.get("LLMARINER_CONTROL_URL") else self.in_process_control_plane

    @cached_once
    def gateway(self) -> Gateway:
        """The state of this gateway instance."""
        from llmariner.gateway.state import Gateway

        secrets = self.secrets
        return Gateway(self.control_plane, GatewaySettings.load(self.env), secrets.pepper, secrets.service)
