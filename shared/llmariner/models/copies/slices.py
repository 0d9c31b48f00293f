"""One slice of a copy: lists the files, stores their next bytes, and ends in time."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmariner.models.copies.blobs import Blobs, HeldBlob
from llmariner.models.copies.chunks import ChunkReader
from llmariner.models.copies.records import CopyFile, CopyRecords, ModelCopy
from llmariner.models.formats import choose_files, has_gguf
from llmariner.models.weights import LoadingProgress, LoadingUnfinished, ReportProgress
from llmariner.platform.model_files import (
    FilesUnavailable,
    ModelSource,
    RemoteFile,
    TransferInterrupted,
    check_files,
)
from llmariner.platform.objects import ObjectStoreUnavailable

if TYPE_CHECKING:
    from llmariner.models.gguf.conversion import GgufConversion

__all__ = ["CopySlice", "SliceLimits"]

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 8.0
_WAIT_SECONDS = 1.0
_WAITED_PART = 0.25
"""Of the patience: so long a copy waits for the source of another one, and then fetches the content itself."""


@dataclass(frozen=True)
class SliceLimits:
    """`seconds`: of one slice. `patience`: seconds without a byte, over slices, after which a copy is given up."""

    seconds: float = 40.0
    patience: float = 600.0
    chunk_bytes: int = 8 << 20
    ahead: int = 3
    """Chunks that are fetched at once. These, and one more that is stored, are in memory."""


@dataclass
class CopySlice:
    """`conversion_of`: the conversion of a GGUF file whose content is stored. `pickles_allowed`: weights may be pickles."""

    source: ModelSource
    copy: ModelCopy
    records: CopyRecords
    blobs: Blobs
    report: ReportProgress
    conversion_of: Callable[[CopyFile], GgufConversion]
    limits: SliceLimits
    pickles_allowed: bool
    _began: float = field(default_factory=time.monotonic)
    _copied: int = 0
    _stored: dict[int, int] = field(default_factory=dict)
    """Bytes of each file, by its position."""
    _total: int = 0
    _interruption: str = ""
    _conversion: GgufConversion | None = None

    def run(self) -> list[CopyFile]:
        """Work until the copy is complete, and return its files. FilesUnavailable; LostBlob; what `report` raises.

        Raises LoadingUnfinished at the end of the slice.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            before = self._copied
            try:
                return self._complete()
            except (TransferInterrupted, ObjectStoreUnavailable) as error:
                self._interruption = str(error)
                pause = _FIRST_PAUSE_SECONDS if self._copied > before else min(_LONGEST_PAUSE_SECONDS, pause * 2)
                if pause > self._left:
                    self._end()
                time.sleep(pause * random.uniform(0.5, 1.0))

    def _complete(self) -> list[CopyFile]:
        if self.copy.revision is None:
            self.report(LoadingProgress(0.0, "listing the files"))
            self._plan()
        files = self.records.files(self.copy)
        while _is_unfinished(files):
            if not self._advance(files):  # other copies of the same contents are under way
                time.sleep(_WAIT_SECONDS)
            if self._left <= 0:
                self._end()
            files = self.records.files(self.copy)
        if converted := [each for each in files if each.is_converted]:
            self.records.keep_converted(self.copy)
        return converted or files

    @property
    def _left(self) -> float:
        return self._began + self.limits.seconds - time.monotonic()

    def _plan(self) -> None:
        listing = self.source.list_files()
        files = choose_files(listing.files, self.source.only, pickles_allowed=self.pickles_allowed)
        check_files(files)
        converted: Sequence[RemoteFile] = ()
        if has_gguf(files):
            from llmariner.models.gguf.conversion import conversion_of_source  # NumPy is for those that convert

            with contextlib.suppress(TransferInterrupted):  # a slow source: what it makes is seen when it is fetched
                converted = conversion_of_source(self.source, files).list_files().files
        self.copy = self.records.plan(self.copy, listing, files, converted)

    def _advance(self, files: Sequence[CopyFile]) -> bool:
        """Continue with every file that no other process is at; False where there is none."""
        worked = False
        self._stored = {each.position: each.stored_bytes for each in files}
        self._total = sum(each.file.size for each in files)
        is_fetched = all(each.is_done for each in files if not each.is_converted)
        if is_fetched and self._begin_conversion(files):
            return True
        for each in files:
            if each.is_done or (each.is_converted and not is_fetched):
                continue
            if each.is_stored:
                self._confirm(each)
            elif (held := self.blobs.hold(each.blob_id, each.file)) is not None:
                try:
                    self._store(each, held)
                finally:
                    self.blobs.release(held)
            elif each.is_shared and self.copy.idle_seconds > self.limits.patience * _WAITED_PART:
                self.records.separate(self.copy, each)
            else:
                continue
            worked = True
            if self._left <= 0:
                self._end()
        return worked

    def _begin_conversion(self, files: Sequence[CopyFile]) -> bool:
        """Open what converts the files that are fetched; whether it makes others than those that are planned."""
        stored = next((each for each in files if each.file.path.endswith(".gguf")), None)
        if stored is None or self._conversion is not None:
            return False
        self._conversion = self.conversion_of(stored)
        made = self._conversion.list_files().files
        if {each.file for each in files if each.is_converted} == set(made):
            return False
        self.records.plan_converted(self.copy, made)
        return True

    def _source_of(self, each: CopyFile) -> ModelSource:
        if not each.is_converted:
            return self.source
        assert self._conversion is not None  # `_advance` opens it
        return self._conversion

    def _confirm(self, each: CopyFile) -> None:
        """Accept a content that another copy stored, if this model's source has it, too."""
        self._check_access(each)
        self.records.confirm(self.copy, each.position, self.blobs)

    def _check_access(self, each: CopyFile) -> None:
        if each.file.size:
            with self._source_of(each).open_range(each.file, 0, 1) as stream:
                stream.read(1)

    def _store(self, each: CopyFile, held: HeldBlob) -> None:
        """Store the next bytes of a content, until its end or that of the slice."""
        limits = self.limits
        if held.mismatches and each.is_shared:
            self.records.separate(self.copy, each)
            return
        if held.stored_bytes >= each.file.size:  # all of them are from another copy's source
            self._check_access(each)
        source = self._source_of(each)
        with ChunkReader(source, each.file, held.stored_bytes, limits.chunk_bytes, limits.ahead) as reader:
            while held.stored_bytes < each.file.size:
                data, whole = reader.read(self._left)
                self._interruption = reader.interruption or self._interruption
                if data:
                    self.blobs.add(held, data)
                    self._copied += len(data)
                    self.records.progressed(self.copy)
                    self._stored[each.position] = held.stored_bytes
                    self._tell("converting: " if each.is_converted else "")
                if not whole:
                    self._end()
        if not (wrong := self.blobs.finish(held)):
            self.records.confirm(self.copy, each.position, self.blobs)
        elif each.is_shared:  # the source of any copy that stored a part of it may be to blame
            self.records.separate(self.copy, each)
        else:
            raise FilesUnavailable(
                f"'{each.file.path}' is not what its source says: its {wrong} differs, twice. Nothing of it is kept; tell "
                "who runs the source, or name another revision."
            )

    def _tell(self, what: str) -> None:
        done, total = sum(self._stored.values()), self._total
        elapsed = time.monotonic() - self._began
        estimate = (total - done) * elapsed / self._copied if self._copied else None
        message = f"{what}{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        self.report(LoadingProgress(min(0.99, done / max(1, total)), message, done, total, estimate))

    def _end(self) -> None:
        """Raise what ends a slice before the copy is complete."""
        if not self._copied and self.copy.idle_seconds > self.limits.patience:
            raise FilesUnavailable(
                f"{self._interruption or 'The source is silent.'} Nothing came for {self.limits.patience / 60:.0f} minutes; "
                "what is here already is kept. Retry the model when the source answers."
            )
        raise LoadingUnfinished(self._interruption)


def _is_unfinished(files: Sequence[CopyFile]) -> bool:
    is_planned = any(each.is_converted for each in files) or not has_gguf([each.file for each in files])
    return not is_planned or not all(each.is_done for each in files)
