"""One file over HTTP: resumed where it was cut, checked against its hash, and the token kept at home."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from tramontane import durable
from tramontane.errors import CheckpointError

_HASHED_BYTES = 1 << 20  # at once
MAX_REDIRECTS = 5
MAX_ROUNDS = 2  # of fetching a file that arrives whole, but damaged
MAX_FAILURES = 5  # in a row without a byte more
_RETRIED = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub's listing states it: large ones with `sha256`, the others with `git_sha1`."""

    name: str
    url: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None  # of the blob, as git computes it


class Cut(Exception):  # noqa: N818
    """The transfer broke off; what has arrived is kept, and it is tried again."""


class Transfer:
    """Fetches files with a shared HTTP client (httpx's interface) and a token that goes to `origin` alone."""

    def __init__(self, client: Any, origin: str, token: str | None, retry_delay_s: float) -> None:
        self._client = client
        self._origin = _origin(origin)
        self._token = token
        self._retry_delay_s = retry_delay_s
        # httpx, or its successor inside huggingface_hub 2
        self._http_error: type[Exception] = import_module(type(client).__module__.partition(".")[0]).HTTPError

    def fetch(self, file: RemoteFile, target: Path, on_bytes: Callable[[int], None]) -> None:
        """Put the whole, checked `file` at `target`; a `.part` beside it is continued, or left if this fails.

        `on_bytes` is told of every change in the number of bytes present, downwards too. Raises CheckpointError if
        the hub does not deliver the file, OSError if it cannot be written.
        """
        part = target.with_name(target.name + ".part")
        for _ in range(MAX_ROUNDS):
            self._receive(file, part, on_bytes)
            if is_whole(file, part):
                durable.publish(part, target)
                return
            on_bytes(-part.stat().st_size)
            part.unlink()
        raise CheckpointError(
            f"{file.name} arrived damaged {MAX_ROUNDS} times: its hash is not the one the hub states; pull again later"
        )

    def _receive(self, file: RemoteFile, part: Path, on_bytes: Callable[[int], None]) -> None:
        """Bring `part` to the full size, continuing after every interruption that got further than any before."""
        present = furthest = part.stat().st_size if part.exists() else 0
        on_bytes(present)
        failures = 0
        while present < file.size_bytes or not part.exists():
            try:
                for size in self._stream(file, part, present):
                    on_bytes(size - present)
                    present = size
            except (Cut, self._http_error) as error:
                size = part.stat().st_size if part.exists() else 0
                on_bytes(size - present)
                present = size
                failures = 0 if present > furthest else failures + 1
                furthest = max(furthest, present)
                if failures == MAX_FAILURES:
                    reason = str(error) if isinstance(error, Cut) else type(error).__name__
                    raise CheckpointError(
                        f"{file.name}: the transfer failed ({reason}); pull again to continue from {present} bytes"
                    ) from None
                time.sleep(self._retry_delay_s * 2**failures)

    def _stream(self, file: RemoteFile, part: Path, present: int) -> Iterator[int]:
        """Append to `part`, yielding its size as it grows; from the start where the server cannot continue."""
        headers = {"Accept-Encoding": "identity"}
        if present:
            headers["Range"] = f"bytes={present}-"
        with self._get(file, headers) as response:
            if response.status_code in _RETRIED:
                raise Cut(f"HTTP {response.status_code}")
            if response.status_code == 416 and present:
                part.unlink()
                raise Cut("HTTP 416")
            if response.status_code not in (200, 206):
                raise CheckpointError(
                    f"{file.name}: the hub answered HTTP {response.status_code}; check the name, or set HF_TOKEN"
                )
            start = _range_start(response, file.size_bytes) if response.status_code == 206 else 0
            if start not in (0, present):
                part.unlink(missing_ok=True)
                raise Cut("the server sent another range than asked for")
            size = start
            with part.open("r+b" if part.exists() else "wb") as out:
                out.seek(start)
                out.truncate()
                for chunk in response.iter_bytes():  # as they arrive: a cut loses nothing
                    size += len(chunk)
                    if size > file.size_bytes:
                        out.truncate(0)
                        raise Cut(f"more than the {file.size_bytes} bytes the hub states")
                    out.write(chunk)
                    yield size
            if size < file.size_bytes:
                raise Cut(f"{size} of {file.size_bytes} bytes")

    @contextmanager
    def _get(self, file: RemoteFile, headers: dict[str, str]) -> Iterator[Any]:
        """The response after redirects. The token goes with requests to `origin` only, and never on to plain http."""
        url = file.url
        for _ in range(MAX_REDIRECTS):
            own = {"Authorization": f"Bearer {self._token}"} if self._token and _origin(url) == self._origin else {}
            with self._client.stream(
                "GET", url, headers={**headers, **own}, follow_redirects=False, timeout=30.0
            ) as response:
                if response.status_code not in (301, 302, 303, 307, 308):
                    yield response
                    return
                target = urljoin(url, response.headers.get("location", ""))
            schemes = urlsplit(url).scheme, urlsplit(target).scheme
            if schemes[1] not in ("https", "http") or schemes == ("https", "http"):
                raise CheckpointError(f"{file.name}: the hub redirects to an insecure address; it is not followed")
            url = target
        raise CheckpointError(f"{file.name}: the hub redirects more than {MAX_REDIRECTS} times; pull again later")


def _range_start(response: Any, size_bytes: int) -> int | None:
    """First byte of a partial response; None if it is not of this file."""
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("content-range", ""))
    if match is None or match[3] not in ("*", str(size_bytes)):
        return None
    return int(match[1])


def is_whole(file: RemoteFile, path: Path) -> bool:
    """Whether the file has the size and the hash that the hub states."""
    if path.stat().st_size != file.size_bytes:
        return False
    if file.sha256 is not None:
        digest, expected = hashlib.sha256(), file.sha256
    elif file.git_sha1 is not None:
        digest, expected = hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False), file.git_sha1
    else:
        return False
    with path.open("rb") as opened:
        while chunk := opened.read(_HASHED_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == expected


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
