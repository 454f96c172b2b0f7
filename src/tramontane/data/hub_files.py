"""Data sets of the Hugging Face hub as local files: `hf://datasets/OWNER/NAME[@REVISION]/GLOB`."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from tramontane.errors import DataError

PREFIX = "hf://datasets/"
_ADDRESS = re.compile(r"hf://datasets/(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+?))?/(?P<pattern>[^@]+)\Z")


def fetch_hub_files(address: str) -> dict[str, Path]:
    """Files of a data set whose path matches the glob, by name in the data set; downloaded once, into the cache of
    huggingface_hub. Raises DataError for a bad address, an unreachable hub or a glob without match."""
    match = _ADDRESS.match(address)
    if match is None:
        raise DataError(f"{address!r} is not of the form {PREFIX}OWNER/NAME/GLOB or {PREFIX}OWNER/NAME@REVISION/GLOB")
    from huggingface_hub import HfApi, hf_hub_download

    repo, revision = match["repo"], match["revision"]
    try:
        names = HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
        wanted = sorted(name for name in names if fnmatch.fnmatchcase(name, match["pattern"]))
        if not wanted:
            raise DataError(f"{address!r} matches none of the {len(names)} files of the data set {repo}")
        return {name: Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision)) for name in wanted}
    except DataError:
        raise
    except Exception as error:  # the hub's refusals, or the network errors of whichever client its library has
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(f"{address!r} cannot be fetched: {reason}; download the files and name their folder") from None
