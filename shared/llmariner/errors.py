"""Every error a caller can meet, as facts with a status. Rendering is elsewhere (`http.rendering`, `gateway.answers`).

    PlatformError
    ├── InvalidRequest          400  the request itself is wrong
    │   ├── BodyTooLarge        413
    │   └── UnsupportedMedia    415
    ├── AuthenticationFailed    401
    ├── PermissionDenied        403
    ├── NotFound                404
    │   ├── ModelNotFound       404
    │   └── UnknownUrl          404
    ├── MethodNotAllowed        405
    ├── Conflict                409
    ├── RateLimited             429
    │   └── WaitingRoomFull            429  the waiting room has no place left
    ├── InsufficientQuota       429  a budget is spent
    ├── EngineFailed            502  the engine broke off or spoke nonsense
    ├── ModelNotReady           503  the wait budget ended, or the load failed
    └── Unavailable             503  a part of the platform does not answer
        └── TransactionConflict 503  another change was made at the same time; a retry helps

The shape on the wire is OpenAI's: `{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "AuthenticationFailed",
    "BodyTooLarge",
    "Conflict",
    "EngineFailed",
    "InsufficientQuota",
    "InvalidRequest",
    "MethodNotAllowed",
    "ModelNotFound",
    "ModelNotReady",
    "NotFound",
    "PermissionDenied",
    "PlatformError",
    "RateLimited",
    "WaitingRoomFull",
    "TransactionConflict",
    "Unavailable",
    "UnknownUrl",
    "UnsupportedMedia",
]


class PlatformError(Exception):
    """A fact that the caller is told: `message` says what to do next, `param` names the field at fault."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.headers = dict(headers or {})
        self.details = dict(details or {})

    def body(self) -> dict[str, Any]:
        """The error object as it goes on the wire; `details` stand beside OpenAI's four keys."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**error, **self.details}}


class InvalidRequest(PlatformError):
    """A field is missing, of the wrong type or out of range; `param` says which."""

    status = 400
    type = "invalid_request_error"


class BodyTooLarge(InvalidRequest):
    """The body is over the route's limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMedia(InvalidRequest):
    """The content type is not one this route reads."""

    status = 415
    code = "unsupported_media_type"


class AuthenticationFailed(PlatformError):
    """No key, or one that is unknown, revoked or expired."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class PermissionDenied(PlatformError):
    """The key is good but lacks the scope this route needs."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_permissions"


class NotFound(PlatformError):
    """No such object, or one that belongs to somebody else."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """The platform serves no model of that id to this caller."""

    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model `{model}` does not exist or you do not have access to it. List yours with GET /v1/models.",
            param="model",
        )


class UnknownUrl(NotFound):
    """No function answers this path."""

    code = "unknown_url"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Unknown request URL: {method} {path}. Check the URL for typos, or see the documentation.")


class MethodNotAllowed(PlatformError):
    """The path exists, but not with this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"Method {method} is not allowed on {path}. Allowed: {allowed}.", headers={"allow": allowed})


class Conflict(PlatformError):
    """The object exists already or is in a state that refuses this; a retry does not help."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        # The OpenAI SDKs retry a 409 unless told otherwise.
        super().__init__(message, param=param, code=code, headers={"x-should-retry": "false"})


class RateLimited(PlatformError):
    """A limit on requests or tokens is used up; `retry-after` says when there is room again."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class InsufficientQuota(PlatformError):
    """A budget of money is spent, or can't pay for this request; waiting alone may not help."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class WaitingRoomFull(RateLimited):
    """The model's waiting room, or the tenant's share of it, has no place left."""

    code = "waiting_room_full"


class EngineFailed(PlatformError):
    """The engine broke the connection or answered outside its protocol."""

    status = 502
    type = "server_error"
    code = "engine_error"


class ModelNotReady(PlatformError):
    """The model is not up within the caller's wait; the load goes on. Phase, progress and estimate are in the error."""

    status = 503
    type = "server_error"
    code = "model_not_ready"


class Unavailable(PlatformError):
    """A part of the platform does not answer; nothing was lost."""

    status = 503
    type = "server_error"
    code = "service_unavailable"


class TransactionConflict(Unavailable):
    """The database gave up a transaction in favor of another one (a deadlock, a serialization failure)."""

    code = "transaction_conflict"
