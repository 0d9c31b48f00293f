"""The settings of every function with a database."""

from __future__ import annotations

from llmariner.environment import Environment
from llmariner.file_settings import FileSettings
from llmariner.gateway_settings import SecretSettings
from llmariner.identity_settings import IdentitySettings
from llmariner.job_settings import JobSettings
from llmariner.model_settings import ModelSettings
from llmariner.notebook_settings import NotebookSettings
from llmariner.object_settings import ObjectSettings
from llmariner.settings import BrokerSettings, DatabaseSettings
from llmariner.tracking_settings import TrackingSettings
from llmariner.vector_store_settings import VectorStoreSettings

__all__ = ["check_settings"]


def check_settings(env: Environment) -> None:
    """Validate the settings of every function with a database. Raises ValueError, which names the variable.

    Asked when such a function is built: a wrong setting ends its start and not its first request.
    """
    DatabaseSettings.load(env)
    BrokerSettings.load(env)
    IdentitySettings.load(env)
    FileSettings.load(env)
    JobSettings.load(env)
    ModelSettings.load(env)
    NotebookSettings.load(env)
    ObjectSettings.load(env)
    TrackingSettings.load(env)
    VectorStoreSettings.load(env)
    SecretSettings.load(env)
