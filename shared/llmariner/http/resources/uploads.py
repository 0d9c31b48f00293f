"""The form of POST /v1/uploads/{upload_id}/parts: the bytes of one part, straight into the object store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from llmariner.errors import InvalidRequest
from llmariner.files.upload import Part
from llmariner.files.uploads import IncomingPart, Uploads
from llmariner.http.resources.files import ReceivedFile
from llmariner.tenancy.principal import KeyOwner

__all__ = ["PartForm"]


class PartForm:
    """A FormConsumer; `close` discards the part's bytes unless `save` made a part of them."""

    def __init__(self, uploads: Uploads, owner: KeyOwner, upload_id: str) -> None:
        self._uploads = uploads
        self._owner = owner
        self._upload_id = upload_id
        self._opened = ExitStack()
        self._incoming: IncomingPart | None = None

    def close(self) -> None:
        """Discard what was not saved."""
        self._opened.close()

    def field(self, name: str, value: str) -> None:
        """Raises InvalidRequest: the form has one file and no other field."""
        self._check_name(name)
        raise InvalidRequest(
            "'data' must be a file: give its part a 'filename' in its 'content-disposition'.", param="data"
        )

    def file(self, name: str, file_name: str, headers: Mapping[str, str]) -> ReceivedFile:
        """The bytes of the part; its file name does not matter. Raises as `Uploads.receive_part`, before they arrive."""
        self._check_name(name)
        if self._incoming is not None:
            raise InvalidRequest(
                "'data' is given twice: send each part with a request of its own.",
                param="data",
                code="duplicate_parameter",
            )
        self._incoming = self._opened.enter_context(self._uploads.receive_part(self._owner, self._upload_id))
        return ReceivedFile(self._incoming, headers, param="data")

    def save(self) -> Part:
        """Make the part. Raises InvalidRequest where `data` is missing, and as `Uploads.add_part`."""
        if self._incoming is None:
            raise InvalidRequest("Missing required parameter: 'data'.", param="data", code="missing_required_parameter")
        return self._uploads.add_part(self._owner, self._incoming)

    def _check_name(self, name: str) -> None:
        if name != "data":
            raise InvalidRequest(
                f"Unknown parameter: '{name[:64]}'; the form has one field, 'data'.",
                param=name[:64],
                code="unknown_parameter",
            )
