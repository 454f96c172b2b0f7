"""A classifier's head beside its adapter: `classifier.safetensors`, and its labels in `classifier.json`.

Shapes: N texts, D the model's width, C columns, the labels of all targets side by side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tramontane import durable
from tramontane.errors import CheckpointError
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.write import write_safetensors

HEAD, LABELS = "classifier.safetensors", "classifier.json"


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """`labels` by target; of a target in `single` one label holds, of the others any number do. `weight_CD` and
    `bias_C` score the hidden state of a text's last token."""

    labels: Mapping[str, tuple[str, ...]]
    single: frozenset[str]
    weight_CD: Tensor
    bias_C: Tensor

    def probabilities(self, hidden_D: Tensor) -> dict[str, dict[str, float]]:
        """Of each label, by target: softmax over a single label's target, else the logistic function of each."""
        scores_C = F.linear(hidden_D.float(), self.weight_CD.float(), self.bias_C.float())
        found, start = {}, 0
        for target, labels in self.labels.items():
            scores = scores_C[start : start + len(labels)]
            start += len(labels)
            likely = torch.softmax(scores, -1) if target in self.single else torch.sigmoid(scores)
            found[target] = dict(zip(labels, likely.tolist(), strict=True))
        return found


def write_classifier(folder: Path, classifier: Classifier) -> None:
    """Into a folder that is there."""
    tensors = {"weight": classifier.weight_CD, "bias": classifier.bias_C}
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(folder / HEAD, specs, tensors.items())
    document = {
        "targets": {target: list(labels) for target, labels in classifier.labels.items()},
        "single": sorted(classifier.single),
    }
    durable.write(folder / LABELS, json.dumps(document, indent=1) + "\n")


def open_classifier(folder: Path, dim: int) -> Classifier:
    """The head in `folder`, for a model of width `dim`. Raises CheckpointError where it is damaged or does not fit."""
    try:
        document = json.loads((folder / LABELS).read_text("utf-8"))
        labels = {str(target): tuple(map(str, names)) for target, names in document["targets"].items()}
        single = frozenset(map(str, document["single"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / LABELS}: no labels of a classifier ({error})") from None
    with open_tensors(folder / HEAD) as source:
        names = set(source.names())
        if names != {"weight", "bias"}:
            raise CheckpointError(f"{folder / HEAD}: holds {', '.join(sorted(names))}, not weight and bias")
        weight_CD, bias_C = source.read("weight"), source.read("bias")
    num_columns = sum(map(len, labels.values()))
    if tuple(weight_CD.shape) != (num_columns, dim) or tuple(bias_C.shape) != (num_columns,):
        raise CheckpointError(
            f"{folder / HEAD}: weight {tuple(weight_CD.shape)} and bias {tuple(bias_C.shape)} do not fit "
            f"{num_columns} labels and a model of width {dim}"
        )
    return Classifier(labels, single, weight_CD, bias_C)
