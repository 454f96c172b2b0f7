"""HttpProtocol: uvicorn's, with a bound on what stands before the body, and refusals in our own words."""

from __future__ import annotations

import httptools
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tramontane.server.errors import ApiError

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200


class HttpProtocol(HttpToolsProtocol):
    """The parser itself keeps headers of any size in memory; here a connection that sends too much of them is answered
    431 and closed."""

    _head_bytes = 0  # received of a head that is not complete
    _size = 0  # of the names and values in it
    _is_in_head = True
    _is_too_large = False

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._is_too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._size = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._size += len(name) + len(value)
        self._is_too_large = self._size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS
        if self._is_too_large:
            raise httptools.HttpParserError  # ends the parsing; `data_received` of uvicorn then refuses

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """`msg` is uvicorn's and says nothing of what is wrong."""
        if self._is_too_large:
            error = ApiError(
                431, f"the headers are too large: at most {MAX_HEADERS} of {MAX_HEAD_BYTES:,} bytes in all"
            )
        else:
            error = ApiError(400, "this is no valid HTTP request")
        response: Response = error.response()
        reason = "Request Header Fields Too Large" if self._is_too_large else "Bad Request"
        lines = [f"HTTP/1.1 {error.status} {reason}".encode(), b"connection: close"]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()
