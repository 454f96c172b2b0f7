"""A classifier's head: what is written is read, and what does not fit or is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tramontane.errors import CheckpointError
from tramontane.loading.classifier_files import HEAD, LABELS, Classifier, open_classifier, write_classifier

DIM = 4


def made() -> Classifier:
    generator = torch.Generator().manual_seed(0)
    labels = {"mood": ("glad", "sad"), "topics": ("rain", "wind", "sun")}
    weight_CD = torch.randn(5, DIM, generator=generator)
    return Classifier(labels, frozenset({"mood"}), weight_CD, torch.randn(5, generator=generator))


def test_read_as_written(tmp_path: Path) -> None:
    classifier = made()
    write_classifier(tmp_path, classifier)
    found = open_classifier(tmp_path, DIM)
    assert (found.labels, found.single) == (classifier.labels, classifier.single)
    hidden_D = torch.arange(DIM) / DIM
    scores = classifier.weight_CD @ hidden_D + classifier.bias_C
    told = found.probabilities(hidden_D)
    assert list(told["mood"].values()) == pytest.approx(torch.softmax(scores[:2], 0).tolist())
    assert list(told["topics"].values()) == pytest.approx(torch.sigmoid(scores[2:]).tolist())
    assert list(told["topics"]) == ["rain", "wind", "sun"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_classifier(tmp_path, made())
    with pytest.raises(CheckpointError, match="do not fit 5 labels and a model of width 5"):
        open_classifier(tmp_path, DIM + 1)
    (tmp_path / LABELS).write_text(json.dumps({"targets": {"mood": ["glad"]}, "single": []}), "utf-8")
    with pytest.raises(CheckpointError, match="do not fit 1 labels"):
        open_classifier(tmp_path, DIM)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"targets": {}}', '{"targets": 3, "single": []}', '{"targets": {"a": 1}, "single": []}']
)
def test_labels_that_are_none(tmp_path: Path, text: str) -> None:
    write_classifier(tmp_path, made())
    (tmp_path / LABELS).write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match="no labels of a classifier"):
        open_classifier(tmp_path, DIM)


def test_files_that_are_missing(tmp_path: Path) -> None:
    write_classifier(tmp_path, made())
    (tmp_path / HEAD).unlink()
    with pytest.raises(CheckpointError):
        open_classifier(tmp_path, DIM)
