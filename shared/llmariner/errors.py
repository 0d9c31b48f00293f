"""Every error that a caller can get, with its HTTP status. `http.middleware.errors` and `gateway.responses` render them.

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
    ├── RangeNotSatisfiable     416
    ├── RateLimited             429
    │   └── WaitingRoomFull     429  the model's waiting room is full
    ├── InsufficientQuota       429  a budget is spent
    ├── EngineFailed            502  the engine closed the connection or sent an invalid response
    ├── ModelNotReady           503  the wait budget is spent, or the load failed
    └── Unavailable             503  a component of the platform does not respond
        └── TransactionConflict 503  a concurrent transaction won; a retry helps

The JSON form is OpenAI's: `{"error": {"message", "type", "param", "code"}}`.
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
    "RangeNotSatisfiable",
    "RateLimited",
    "TransactionConflict",
    "Unavailable",
    "UnknownUrl",
    "UnsupportedMedia",
    "WaitingRoomFull",
]


class PlatformError(Exception):
    """Base of all errors: `message` says what to do next, `param` names the invalid field."""

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
        """The JSON body; `details` are added to OpenAI's four keys."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**error, **self.details}}


class InvalidRequest(PlatformError):
    """A field is missing, of the wrong type or out of range; `param` names it."""

    status = 400
    type = "invalid_request_error"


class BodyTooLarge(InvalidRequest):
    """The request body exceeds the route's size limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMedia(InvalidRequest):
    """The route does not accept this content type."""

    status = 415
    code = "unsupported_media_type"


class AuthenticationFailed(PlatformError):
    """The API key is missing, unknown, revoked or expired."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class PermissionDenied(PlatformError):
    """The key is valid but lacks the scope that the route requires."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_permissions"


class NotFound(PlatformError):
    """The object does not exist, or is not visible to the caller."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No model of that id is available to the caller."""

    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model `{model}` does not exist or you do not have access to it. List yours with GET /v1/models.",
            param="model",
        )


class UnknownUrl(NotFound):
    """No function serves this path."""

    code = "unknown_url"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Unknown request URL: {method} {path}. Check the URL for typos, or see the documentation.")


class MethodNotAllowed(PlatformError):
    """The path exists, but does not support this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"Method {method} is not allowed on {path}. Allowed: {allowed}.", headers={"allow": allowed})


class Conflict(PlatformError):
    """The object already exists or is in a conflicting state; a retry does not help."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        # The OpenAI SDKs retry a 409 without this header.
        super().__init__(message, param=param, code=code, headers={"x-should-retry": "false"})


class RangeNotSatisfiable(PlatformError):
    """The content has no byte of the requested range (RFC 9110, 15.5.17)."""

    status = 416
    type = "invalid_request_error"
    code = "range_not_satisfiable"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(
            f"The content has {size_bytes} bytes, and none in the requested range. Correct the header 'Range'.",
            headers={"content-range": f"bytes */{size_bytes}"},
        )


class RateLimited(PlatformError):
    """A limit on requests or tokens is exhausted; the `retry-after` header says when to retry."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class InsufficientQuota(PlatformError):
    """A budget is spent, or does not cover this request; waiting alone may not help."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class WaitingRoomFull(RateLimited):
    """The model's waiting room, or the tenant's share of it, is full."""

    code = "waiting_room_full"


class EngineFailed(PlatformError):
    """The engine closed the connection or violated its protocol."""

    status = 502
    type = "server_error"
    code = "engine_error"


class ModelNotReady(PlatformError):
    """The model did not become ready within the wait; loading continues. `details` hold phase, progress and estimate."""

    status = 503
    type = "server_error"
    code = "model_not_ready"


class Unavailable(PlatformError):
    """A component of the platform does not respond; nothing was lost."""

    status = 503
    type = "server_error"
    code = "service_unavailable"


class TransactionConflict(Unavailable):
    """The database aborted the transaction in favor of another one (deadlock, serialization failure)."""

    code = "transaction_conflict"
