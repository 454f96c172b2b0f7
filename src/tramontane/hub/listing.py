"""What the hub says a repository holds: its commit, and the size and hash of every file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from tramontane.errors import CheckpointError
from tramontane.hub.transfer import RemoteFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

    from tramontane.hub.name import HubName

_TIMEOUT_S = 30.0
_MAX_FILES = 10_000
_MAX_FILE_BYTES = 2**50


@dataclass(frozen=True, slots=True)
class Listing:
    commit: str
    files: dict[str, RemoteFile]


def hub_address() -> str:
    """`HF_ENDPOINT`, else the public hub."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def hub_token(given: str | None) -> str | None:
    """The token to use: `given`, else that of the environment or of a login.

    Raises CheckpointError rather than send one unencrypted to another machine.
    """
    from huggingface_hub import get_token

    token = given or get_token()
    address = urlsplit(hub_address())
    if token and address.scheme != "https" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise CheckpointError(f"HF_ENDPOINT={hub_address()} would carry the token unencrypted; use https, or no token")
    return token


def list_files(name: HubName, token: str | None) -> Listing:
    """Ask the hub. Raises CheckpointError, in one line with the remedy, for whatever goes wrong."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    address = hub_address()
    host = urlsplit(address).netloc
    try:
        info = HfApi(endpoint=address, token=token or False, library_name="tramontane").model_info(
            name.repository, revision=name.revision, files_metadata=True, timeout=_TIMEOUT_S
        )
        return _read(info, name, address)
    except CheckpointError:
        raise
    except GatedRepoError:
        reason = f"is gated; accept its conditions at {address}/{name.repository} and set HF_TOKEN"
    except RepositoryNotFoundError:
        reason = f"is not on {host}, or is private; check the name, or set HF_TOKEN"
    except RevisionNotFoundError:
        reason = f"has no revision {name.revision} on {host}; leave it out for main"
    except OfflineModeIsEnabled:
        reason = "cannot be fetched while HF_HUB_OFFLINE is set; unset it"
    except HfHubHTTPError as error:
        reason = f"cannot be listed: {host} answered HTTP {error.response.status_code}; try again later"
    except Exception as error:  # the client's network errors, or its parser on an answer that is no listing
        reason = f"cannot be listed: {host} gave no usable answer ({type(error).__name__}); check the connection"
    raise CheckpointError(f"{name} {reason}")


def _read(info: ModelInfo, name: HubName, address: str) -> Listing:
    commit = info.sha or ""
    siblings = info.siblings or []
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or len(siblings) > _MAX_FILES:
        raise CheckpointError(f"{name}: the hub's listing is not one of a model; check HF_ENDPOINT")
    files = {}
    for sibling in siblings:
        path, size, sha256, sha1 = sibling.rfilename, sibling.size, None, sibling.blob_id
        if sibling.lfs is not None:
            size, sha256 = sibling.lfs.size, sibling.lfs.sha256
        is_sound = isinstance(path, str) and type(size) is int and 0 <= size < _MAX_FILE_BYTES
        if is_sound and (_is_hex(sha256, 64) or (sha256 is None and _is_hex(sha1, 40))):
            url = f"{address}/{name.repository}/resolve/{commit}/{quote(path)}"
            files[path] = RemoteFile(path, url, size or 0, sha256, sha1)
    return Listing(commit, files)


def _is_hex(digest: object, length: int) -> bool:
    return isinstance(digest, str) and re.fullmatch(rf"[0-9a-f]{{{length}}}", digest) is not None
