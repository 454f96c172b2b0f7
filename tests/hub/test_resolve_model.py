"""What a model's name stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tramontane.errors import CheckpointError
from tramontane.hub import HubName, parse_hub_name, resolve_model


def test_what_exists_on_disk_comes_first(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mistralai" / "Tiny-7B").mkdir(parents=True)
    (tmp_path / "tiny.gguf").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("mistralai/Tiny-7B") == Path("mistralai/Tiny-7B")
    assert resolve_model("tiny.gguf") == Path("tiny.gguf")
    assert resolve_model(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/tiny.gguf") == tmp_path / "tiny.gguf"


def test_no_default_model_is_a_sentence_not_a_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = tmp_path / "hub" / "store.py"
    monkeypatch.setattr("tramontane.hub.store.__file__", str(module))
    with pytest.raises(CheckpointError, match="no default model comes with this version; name one, such as --model"):
        resolve_model("default")
    (tmp_path / "default_model").mkdir()
    assert resolve_model("default") == tmp_path / "default_model"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "mistral",
        "./missing",
        "../missing/model",
        "/missing/model",
        "~/missing",
        "~nobody-of-this-name/x",
        "missing/model.gguf",
        "a/b/c",
        "a\0b",
        "x" * 100_000,
        "org/name:file.bin",
        "org/name@",
        "org/name:",
    ],
)
def test_an_unknown_model_is_named_with_the_remedy(home: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist; name a folder, a .gguf file or a hub id") as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_hub_id_that_was_not_pulled_names_the_command(home: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run: tramontane pull mistralai/Tiny-7B@v1$"):
        resolve_model("mistralai/Tiny-7B@v1")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mistralai/Mistral-7B-v0.3", HubName("mistralai/Mistral-7B-v0.3")),
        ("bart/Tiny-GGUF:Tiny.Q4_K_M.gguf", HubName("bart/Tiny-GGUF", "Tiny.Q4_K_M.gguf")),
        ("bart/Tiny-GGUF:sub/Tiny.gguf@refs/pr/7", HubName("bart/Tiny-GGUF", "sub/Tiny.gguf", "refs/pr/7")),
        ("bart/Tiny@" + "a" * 40, HubName("bart/Tiny", None, "a" * 40)),
        ("bart/Tiny@main", HubName("bart/Tiny")),
    ],
)
def test_names_are_read_and_written_back(text: str, name: HubName) -> None:
    assert parse_hub_name(text) == name
    assert parse_hub_name(str(name)) == name


HOSTILE = [
    "../../etc/passwd",
    "org/..",
    "../name",
    "./name",
    "org/name/../../x",
    "org/name@../../x",
    "org/name@a/../b",
    "org/name@/etc",
    "org/name@a//b",
    "org/name:../x.gguf",
    "org/name:/x.gguf",
    "org\\name/x",
    "org/name\n",
    "org/na\0me",
    "org/na me",
    "org/.hidden",
    ".hidden/name",
    "org/name.",
    "org/na--me",
    "org/" + "n" * 200,
    "https://evil.example/org/name",
    "org/name?x=1",
    "org/name#x",
    "org/%2e%2e",
    "org/name@rev@rev",
    "org/n\u00e4me",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_refused_whether_or_not_the_file_exists(home: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match="is not the name of a model on the hub"):
        parse_hub_name(text)
    assert not home.exists()


def test_no_two_names_share_a_folder(home: Path) -> None:
    names = [
        HubName("a/b"),
        HubName("a/b", None, "main2"),
        HubName("a/b", "x.gguf"),
        HubName("a/b", "sub/x.gguf"),
        HubName("a/b", None, "sub/x.gguf"),
        HubName("a/b", "x.gguf", "v1"),
        HubName("a/b", None, "v1/x.gguf"),
    ]
    folders = {name.folder for name in names}
    assert len(folders) == len(names)
    assert all(folder.parent == home / "models" / "a" / "b" for folder in folders)
