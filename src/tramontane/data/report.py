"""What a build took in, what it left out and why, as JSON and as a page of Markdown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tramontane import durable
from tramontane.data.report_page import report_page

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_EXAMPLES = 3


@dataclass(slots=True)
class DropTally:
    """Documents left out for one reason, with the first few as examples of (origin, text)."""

    num_documents: int = 0
    num_bytes: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class SplitTally:
    """What one split of a source holds."""

    num_documents: int = 0
    num_token_ids: int = 0
    num_learned: int = 0
    num_text_bytes: int = 0

    def count(self, token_ids: NDArray[Any], mask: NDArray[np.bool_], num_text_bytes: int) -> None:
        """Take one document in: its tokens (n,) and which of them are learned (n,)."""
        self.num_documents += 1
        self.num_token_ids += len(token_ids)
        self.num_learned += int(mask.sum())
        self.num_text_bytes += num_text_bytes


@dataclass(slots=True)
class SourceReport:
    """The account of one source; every rendered document is in `train`, `valid` or `dropped`."""

    name: str
    num_records: int = 0
    train: SplitTally = field(default_factory=SplitTally)
    valid: SplitTally = field(default_factory=SplitTally)
    dropped: dict[str, DropTally] = field(default_factory=dict)
    examples: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    """Of documents that were kept: what was read otherwise than it stands, and how often."""

    def note(self, notes: Mapping[str, int]) -> None:
        for what, count in notes.items():
            self.notes[what] = self.notes.get(what, 0) + count

    def drop(self, reason: str, origin: object, num_bytes: int, example: str) -> None:
        tally = self.dropped.setdefault(reason, DropTally())
        tally.num_documents += 1
        tally.num_bytes += num_bytes
        if len(tally.examples) < _MAX_EXAMPLES:
            tally.examples.append((str(origin), example))

    def show(self, origin: object, example: str) -> None:
        """Keep the first few documents as examples of what came through."""
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append((str(origin), example))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SourceReport:
        return cls(
            name=data["name"],
            num_records=data["num_records"],
            train=SplitTally(**data["train"]),
            valid=SplitTally(**data["valid"]),
            dropped={
                reason: DropTally(each["num_documents"], each["num_bytes"], [tuple(pair) for pair in each["examples"]])
                for reason, each in data["dropped"].items()
            },
            examples=[tuple(pair) for pair in data["examples"]],
            notes=dict(data.get("notes", {})),
        )


def write_report(folder: Path, title: str, sources: Sequence[SourceReport], notes: Sequence[str] = ()) -> None:
    """`report.json`, `report.md` and `report.html` in `folder`."""
    document = {"title": title, "notes": list(notes), "sources": [source.to_json() for source in sources]}
    durable.write(folder / "report.json", json.dumps(document, indent=1, ensure_ascii=False))
    durable.write(folder / "report.md", markdown(title, sources, notes))
    durable.write(folder / "report.html", report_page(title, sources, notes))


def markdown(title: str, sources: Sequence[SourceReport], notes: Sequence[str] = ()) -> str:
    """The report as a page of Markdown."""
    lines = [f"# {title}", "", *(f"- {note}" for note in notes), ""]
    lines += ["| source | records | documents | tokens | learned | bytes/token | valid tokens | dropped |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
    for source in sources:
        lines.append(_row(source.name, source.num_records, source.train, source.valid, _num_dropped(source)))
    total_train, total_valid = _total([each.train for each in sources]), _total([each.valid for each in sources])
    num_records = sum(each.num_records for each in sources)
    lines.append(_row("**all**", num_records, total_train, total_valid, sum(map(_num_dropped, sources))))
    lines += ["", "## Left out", "", "| source | reason | documents | bytes |", "|---|---|--:|--:|"]
    for source in sources:
        for reason, tally in sorted(source.dropped.items(), key=lambda item: -item[1].num_documents):
            lines.append(f"| {source.name} | {_cell(reason)} | {tally.num_documents:,} | {tally.num_bytes:,} |")
    if any(source.notes for source in sources):
        lines += ["", "## Read otherwise than it stands", "", "| source | what | times |", "|---|---|--:|"]
        for source in sources:
            lines += [f"| {source.name} | {_cell(what)} | {count:,} |" for what, count in source.notes.items()]
    lines += ["", "## Examples", ""]
    for source in sources:
        lines += [f"### {source.name}", ""]
        lines += [f"- kept, {_cell(origin)}: {_cell(text)}" for origin, text in source.examples]
        for reason, tally in source.dropped.items():
            lines += [f"- {_cell(reason)}, {_cell(origin)}: {_cell(text)}" for origin, text in tally.examples]
        lines.append("")
    return "\n".join(lines)


def _row(name: str, num_records: int, train: SplitTally, valid: SplitTally, num_dropped: int) -> str:
    density = train.num_text_bytes / max(1, train.num_token_ids)
    return (
        f"| {name} | {num_records:,} | {train.num_documents:,} | {train.num_token_ids:,} | {train.num_learned:,} "
        f"| {density:.2f} | {valid.num_token_ids:,} | {num_dropped:,} |"
    )


def _num_dropped(source: SourceReport) -> int:
    return sum(tally.num_documents for tally in source.dropped.values())


def _total(splits: Sequence[SplitTally]) -> SplitTally:
    return SplitTally(*(sum(getattr(each, name) for each in splits) for name in SplitTally.__slots__))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
