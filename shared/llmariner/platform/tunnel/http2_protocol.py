"""h2's state machine of a connection, with the copies and visits left out that cost the most.

What a frame means stays h2's. What is done here is how frames of DATA get in and out: each byte is copied once on its way in
and once on its way out, where h2 copies it four times each way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from h2 import events
from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import FlowControlError, InvalidBodyLengthError, ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamInputs, StreamState
from hyperframe.frame import DataFrame, Frame, SettingsFrame

__all__ = ["Http2Protocol"]

# What is received at once, so that the event loop gets its turn within milliseconds.
_SLICE_BYTES = 128 * 1024
_SLICE_FRAMES = 256
_HEAD = struct.Struct(">HBBBL")
_HEAD_BYTES = 9
_DATA, _END_STREAM, _PADDED = 0, 1, 8
_RECEIVING = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)
# A change of the window of streams visits each stream, and a table of fields is searched for each field that is sent.
_MAX_SETTINGS_FRAMES = 32
_FIELD_TABLE_BYTES = 4096


class Http2Protocol(H2Connection):
    """One side of a connection: `receive` takes what the other side sent, `take_outgoing` gives what to send to it.

    h2 counts open streams by visiting every one, for each new one: 10,000 streams took minutes. An upper bound is enough
    where their number matters, so they are visited, and closed ones dropped, when their number has doubled, or when the
    bound would refuse a stream.
    """

    def __init__(
        self, *, client: bool, settings: dict[SettingCodes, int], frame_bytes: int, header_bytes: int, window: int
    ) -> None:
        """`frame_bytes`, `header_bytes`: of a frame and a head that is received. `window`: added to the connection's."""
        super().__init__(H2Configuration(client_side=client, header_encoding=None))
        self._count_at = 64
        self._settings_frames = 0
        self._outgoing: list[bytes] = []
        self._partial = bytearray()
        self.local_settings = Settings(client=client, initial_values=settings)
        self.max_inbound_frame_size = frame_bytes
        self.decoder.max_header_list_size = header_bytes
        self.initiate_connection()
        self._outgoing.append(self.data_to_send())
        self.increment_flow_control_window(window)

    def take_outgoing(self) -> list[bytes]:
        """What to send now, in pieces; a frame of DATA is two: its head and its bytes."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def receive(self, message: bytes) -> Iterator[list[events.Event]]:
        """What bytes of the other side mean, in slices: other work may be done between two. Raises ProtocolError."""
        view, at = memoryview(message), 0
        frames = size = 0
        found: list[events.Event] = []
        while at < len(view):
            begun = at
            if self.incoming_buffer._preamble_len:
                at += min(self.incoming_buffer._preamble_len, len(view))
                super().receive_data(view[:at])
            elif self._partial or (end := self._end(view, at)) > len(view):
                at = self._receive_partial(view, at, found)
            else:
                self._receive_whole(view[at:end], found)
                at = end
            frames, size = frames + 1, size + at - begun
            if frames >= _SLICE_FRAMES or size >= _SLICE_BYTES:
                yield found
                found, frames, size = [], 0, 0
        yield found

    def _end(self, view: memoryview | bytearray, at: int) -> int:
        """Where the frame ends that begins at `at`, or its head as long as that is not there."""
        if len(view) - at < _HEAD_BYTES:
            return at + _HEAD_BYTES
        length = int.from_bytes(view[at : at + 3])
        if length > self.max_inbound_frame_size:
            raise ProtocolError("a frame is longer than allowed")
        return at + _HEAD_BYTES + length

    def _receive_partial(self, view: memoryview, at: int, found: list[events.Event]) -> int:
        """Take what belongs to a frame that is in several messages; returns where the rest begins."""
        missing = self._end(self._partial, 0) - len(self._partial)
        taken = view[at : at + missing]
        self._partial += taken
        if self._end(self._partial, 0) == len(self._partial):
            frame, self._partial = self._partial, bytearray()
            self._receive_whole(memoryview(frame), found)
        return at + len(taken)

    def _receive_whole(self, frame: memoryview, found: list[events.Event]) -> None:
        _, _, kind, flags, number = _HEAD.unpack(frame[:_HEAD_BYTES])
        stream = self.streams.get(number)
        plain = kind == _DATA and not flags & _PADDED and not self.incoming_buffer._headers_buffer
        if not plain or stream is None or stream.state_machine.state not in _RECEIVING:
            found += super().receive_data(frame)
            return
        data = bytes(frame[_HEAD_BYTES:])
        self.state_machine.process_input(ConnectionInputs.RECV_DATA)
        self._inbound_flow_control_window_manager.window_consumed(len(data))
        try:
            found += stream.receive_data(data, bool(flags & _END_STREAM), len(data))[1]
        except InvalidBodyLengthError:
            found += self._refuse(number, len(data))

    def _refuse(self, number: int, received: int) -> list[events.Event]:
        """Reset a stream whose body has another length than its head says, and no other stream (RFC 9113, 8.1.1)."""
        self.reset_stream(number, ErrorCodes.PROTOCOL_ERROR)
        if received:
            self.increment_flow_control_window(received)
        return [events.StreamReset(stream_id=number, error_code=ErrorCodes.PROTOCOL_ERROR, remote_reset=False)]

    def send_frame(self, stream_id: int, data: memoryview) -> None:
        """A frame of DATA: the caller has asked for the window, and a frame has at most that many bytes."""
        stream, size = self._get_stream_by_id(stream_id), len(data)
        if size > min(self.local_flow_control_window(stream_id), self.max_outbound_frame_size):
            raise FlowControlError(f"{size} bytes are more than may be sent")
        self.state_machine.process_input(ConnectionInputs.SEND_DATA)
        stream.state_machine.process_input(StreamInputs.SEND_DATA)
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        self._outgoing.append(_HEAD.pack(size >> 8, size & 0xFF, _DATA, 0, stream_id))
        self._outgoing.append(bytes(data))

    # --- methods of h2 ---

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        self._outgoing += [frame.serialize() for frame in frames]

    def _receive_settings_frame(self, frame: SettingsFrame) -> tuple[list[Frame], list[events.Event]]:
        self._settings_frames += 1
        if self._settings_frames > _MAX_SETTINGS_FRAMES:
            raise ProtocolError("the other side changes its settings again and again")
        if SettingCodes.HEADER_TABLE_SIZE in frame.settings:
            # The other side says what it can hold; what is used of it is our choice.
            wanted = frame.settings[SettingCodes.HEADER_TABLE_SIZE]
            frame.settings[SettingCodes.HEADER_TABLE_SIZE] = min(wanted, _FIELD_TABLE_BYTES)
        return super()._receive_settings_frame(frame)

    def _receive_frame(self, frame: Frame) -> list[events.Event]:
        # h2 describes each frame for a log that is off: of DATA frames all in hex, a third of what receiving them costs.
        frame._body_repr = str  # type: ignore[method-assign]
        try:
            return super()._receive_frame(frame)
        except InvalidBodyLengthError:
            return self._refuse(frame.stream_id, frame.flow_controlled_length if isinstance(frame, DataFrame) else 0)

    def _open_streams(self, remainder: int) -> int:
        limit = min(self.local_settings.max_concurrent_streams, self.remote_settings.max_concurrent_streams)
        if len(self.streams) < min(self._count_at, limit):
            return len(self.streams)
        count = super()._open_streams(remainder)
        self._count_at = max(64, 2 * len(self.streams))
        return count
