"""Small sets of shards for tests: document d of source s holds distinct, recognisable token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tramontane.data.shards import Manifest, PhaseInfo, ShardWriter, SourceInfo, write_manifest

PAD_ID = 11
FIRST_TEXT_ID = 20


def write_set(
    folder: Path,
    lens: Mapping[str, Sequence[int]],
    *,
    phases: tuple[PhaseInfo, ...] = (),
    with_mask: bool = False,
    shard_len: int = 50,
    vocab_size: int = 60_000,
    tokenizer_sha256: str = "t",
) -> dict[str, list[list[int]]]:
    """Write a set; returns the documents of each source. All token ids of a set are distinct."""
    folder.mkdir(parents=True, exist_ok=True)
    documents: dict[str, list[list[int]]] = {}
    sources = []
    next_id = FIRST_TEXT_ID
    for name, document_lens in lens.items():
        writer = ShardWriter(
            folder, name, np.dtype("<u2" if vocab_size <= 65_536 else "<u4"), shard_len, has_mask=with_mask
        )
        documents[name] = []
        for document_len in document_lens:
            token_ids = list(range(next_id, next_id + document_len))
            next_id += document_len
            documents[name].append(token_ids)
            writer.add(np.array(token_ids), is_learned(np.array(token_ids)) if with_mask else None)
            if writer.is_full:
                writer.close_shard()
        writer.close_shard()
        sources.append(
            SourceInfo(
                name=name,
                shards=tuple(writer.shards),
                num_documents=len(document_lens),
                num_token_ids=sum(document_lens),
                num_learned=sum(document_lens),
                num_text_bytes=4 * sum(document_lens),
            )
        )
    manifest = Manifest(
        name="test",
        kind="text",
        vocab_size=vocab_size,
        pad_id=PAD_ID,
        max_document_len=max(max(each, default=1) for each in lens.values()),
        tokenizer_sha256=tokenizer_sha256,
        sources=tuple(sources),
        phases=phases,
    )
    write_manifest(folder, manifest)
    return documents


def is_learned(token_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(token_ids % 3 != 0)
