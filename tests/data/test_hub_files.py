from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import huggingface_hub
import pytest

from tramontane.data.hub_files import fetch_hub_files
from tramontane.data.recipe import SourceRecipe
from tramontane.data.sources import read_records
from tramontane.errors import DataError


def get_session_error() -> type[Exception]:
    """The network error of the client that huggingface_hub uses, which is no OSError."""
    client = type(huggingface_hub.get_session()).__module__.partition(".")[0]
    found: type[Exception] = import_module(client).ConnectError
    assert not issubclass(found, OSError)
    return found


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A hub with one data set, kept in a folder; returns the revisions asked for."""
    asked: list[tuple[str, str | None]] = []

    class FakeApi:
        def list_repo_files(self, repo: str, *, repo_type: str, revision: str | None) -> list[str]:
            if repo == "nobody/offline":
                raise OSError("no network\nmore")
            if repo == "nobody/unreached":
                raise get_session_error()("Name or service not known")
            assert (repo, repo_type) == ("owner/talks", "dataset")
            asked.append((repo, revision))
            return ["README.md", "data/b.jsonl", "data/a.jsonl"]

    def download(repo: str, name: str, *, repo_type: str, revision: str | None) -> str:
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": name}))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_source_may_be_a_data_set_of_the_hub(tmp_path: Path, hub: list[tuple[str, str | None]]) -> None:
    source = SourceRecipe(name="talks", paths=("hf://datasets/owner/talks@v1.0/data/*.jsonl",))
    records = list(read_records(source, tmp_path))
    assert [record.fields["text"] for record in records] == ["data/a.jsonl", "data/b.jsonl"]
    assert str(records[0].origin) == "hf://datasets/owner/talks@v1.0/data/a.jsonl:1"
    assert hub == [("owner/talks", "v1.0")]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://datasets/owner", "is not of the form"),
        ("hf://datasets/owner/talks", "is not of the form"),
        ("hf://datasets/../x/y", "is not of the form"),
        ("hf://datasets/owner/talks/*.parquet", "matches none of the 3 files"),
        ("hf://datasets/nobody/offline/*", "cannot be fetched: no network; download"),
        ("hf://datasets/nobody/unreached/*", "cannot be fetched: Name or service not known; download"),
    ],
)
def test_what_cannot_be_had_is_told(address: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        fetch_hub_files(address)
    assert message in str(caught.value)
