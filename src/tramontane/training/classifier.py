"""Classifier heads: labels read off the hidden state of a document's last token. Several targets share one head.

Shapes: N documents, C columns, the labels of all targets side by side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tramontane.errors import ConfigError
from tramontane.loading.classifier_files import Classifier
from tramontane.model.transformer import Transformer
from tramontane.training.microbatch import Microbatch
from tramontane.training.sample_stream import Targets
from tramontane.training.tasks import Objective


class ClassifierHead(nn.Module):
    """scores_NC = hidden_ND @ weight_CD.T + bias_C, float32; starts at zero: every label equally likely."""

    def __init__(self, dim: int, num_columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_columns, dim))
        self.bias = nn.Parameter(torch.zeros(num_columns))

    @torch.no_grad()
    def go_on(self, start: Classifier, targets: Targets) -> None:
        """Begin where `start` ended, label by label; what it did not know stays zero. Raises ConfigError for a target
        that took one label then and takes several now, or the other way round."""
        known = [(target, label) for target, labels in start.labels.items() for label in labels]
        for target, labels in targets.labels.items():
            if target in start.labels and (target in start.single) != (target in targets.single):
                raise ConfigError(
                    f"target {target!r} takes one label in one of adapter and samples, several in the other"
                )
            for column, label in zip(range(*targets.columns[target].indices(targets.num_columns)), labels, strict=True):
                if (target, label) in known:
                    row = known.index((target, label))
                    self.weight[column].copy_(start.weight_CD[row])
                    self.bias[column].copy_(start.bias_C[row])

    def forward(self, hidden_ND: Tensor) -> Tensor:
        return F.linear(hidden_ND.float(), self.weight, self.bias)


class ClassifierTask(nn.Module):
    """Softmax cross-entropy for targets with one label per document, a logistic loss per label for the others; the
    mean over the targets that a document has. Weight: documents."""

    def __init__(self, targets: Targets, dim: int) -> None:
        super().__init__()
        self.targets = targets
        self.head = ClassifierHead(dim, targets.num_columns)

    def objective(self, model: Transformer, microbatch: Microbatch) -> Objective:
        labels_NC = microbatch.labels
        if labels_NC is None:
            raise ValueError("a classifier needs microbatches with labels")
        hidden_TD = model(microbatch.forward_input)
        ends_N = torch.tensor(microbatch.document_lens[: microbatch.num_documents]).cumsum(0) - 1
        scores_NC = self.head(hidden_TD[ends_N.to(hidden_TD.device)])
        loss_N, hits_N = classifier_loss(scores_NC, labels_NC, self.targets)
        weight = torch.tensor(float(microbatch.num_documents), device=loss_N.device)
        total = loss_N.sum()
        return Objective(total, weight, {"loss": total.detach(), "accuracy": hits_N.sum()})


def classifier_loss(scores_NC: Tensor, labels_NC: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Loss of each document (N,), and the share of its targets told right (N,); NaN labels mark targets it lacks."""
    losses, hits, present = [], [], []
    for target, columns in targets.columns.items():
        scores, labels = scores_NC[:, columns], labels_NC[:, columns]
        is_present = ~labels[:, 0].isnan()
        labels = labels.nan_to_num()
        if target in targets.single:
            loss = F.cross_entropy(scores, labels.argmax(-1), reduction="none")
            hit = scores.argmax(-1) == labels.argmax(-1)
        else:
            loss = F.binary_cross_entropy_with_logits(scores, labels, reduction="none").mean(-1)
            hit = ((scores > 0) == (labels > 0.5)).all(-1)
        losses.append(loss * is_present)
        hits.append(hit * is_present)
        present.append(is_present)
    count_N = torch.stack(present).sum(0).clamp_min(1)
    return torch.stack(losses).sum(0) / count_N, torch.stack(hits).sum(0) / count_N
