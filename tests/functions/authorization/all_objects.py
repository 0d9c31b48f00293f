"""The calls of all routes."""

from __future__ import annotations

from . import objects
from .batch_job_objects import BATCH_JOB_OBJECTS
from .cluster_objects import CLUSTER_OBJECTS
from .files import FILES
from .fine_tuning_objects import FINE_TUNING_OBJECTS
from .model_alias_objects import MODEL_ALIAS_OBJECTS
from .model_credential_objects import MODEL_CREDENTIAL_OBJECTS
from .notebook_objects import NOTEBOOK_OBJECTS
from .price_objects import PRICE_OBJECTS
from .quota_objects import QUOTA_OBJECTS
from .session_objects import SESSION_OBJECTS
from .vector_store_objects import VECTOR_STORE_OBJECTS

__all__ = ["OBJECTS"]

OBJECTS = {
    **objects.OBJECTS,
    **FILES,
    **VECTOR_STORE_OBJECTS,
    **BATCH_JOB_OBJECTS,
    **FINE_TUNING_OBJECTS,
    **MODEL_CREDENTIAL_OBJECTS,
    **MODEL_ALIAS_OBJECTS,
    **QUOTA_OBJECTS,
    **PRICE_OBJECTS,
    **CLUSTER_OBJECTS,
    **SESSION_OBJECTS,
    **NOTEBOOK_OBJECTS,
}
