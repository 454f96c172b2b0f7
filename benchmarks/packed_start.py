"""Second start of a quantised 7B: time to the first token, and resident memory beside the packed weights.

Writes a synthetic Mistral 7B (Q4_0, 4.1 GB) and its packed form, as much again, into a folder that is removed at the
end. Every start is a process of its own, the page cache being warm; the first one packs.

    python -m benchmarks.packed_start [FOLDER]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._results import peak_rss_bytes, record, spread

STARTS = 3


def start(path: str, started: float) -> dict[str, Any]:
    """In the child: seconds from `started`, before the interpreter, to the first token."""
    from tramontane import LLM, SamplingParams

    imported = time.time()
    llm = LLM(path, max_seq_len=2048)
    loaded = time.time()
    llm.generate("The tramontane is", SamplingParams(max_tokens=1))
    first_token_s = time.time() - started
    decode = time.time()
    llm.generate("The tramontane is", SamplingParams(max_tokens=17, ignore_eos=True))
    weights_bytes = llm.engine.model.weights_bytes
    return {
        "import_s": imported - started,
        "load_s": loaded - imported,
        "first_token_s": first_token_s,
        "decode_gb_per_s": 16 * weights_bytes / 1e9 / (time.time() - decode),
        "packed_gb": weights_bytes / 1e9,
        "resident_share": peak_rss_bytes() / weights_bytes,
    }


def main() -> None:
    if sys.argv[1:2] == ["--start"]:
        print(json.dumps(start(sys.argv[2], float(sys.argv[3]))))
        return
    from tramontane.cli.main import run

    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        path = Path(folder) / "mistral-7b.gguf"
        if run(["synth", "mistral-7b", str(path), "--layout", "gguf", "--stored", "Q4_0"]):
            raise SystemExit(f"the checkpoint could not be written to {folder}")
        environment = os.environ | {"TRAMONTANE_HOME": str(Path(folder) / "home")}
        starts = []
        for _ in range(1 + STARTS):
            child = [sys.executable, "-m", "benchmarks.packed_start", "--start", str(path), str(time.time())]
            done = subprocess.run(child, capture_output=True, text=True, check=True, env=environment)
            starts.append(json.loads(done.stdout.splitlines()[-1]))
    again = {name: spread([values[name] for values in starts[1:]]) for name in starts[0]}
    record("packed_start", [{"case": "first start"} | starts[0], {"case": "second start"} | again])


if __name__ == "__main__":
    main()
