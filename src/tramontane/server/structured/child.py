"""The child process of `workshop`: reads jobs, one JSON line each, and answers each with one line.

The limits are the kernel's: processor time for each job, memory for all. A grammar that overflows the stack of its
library ends this process and no other; the stack here is smaller than that of the threads which compile again what has
passed here.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
from collections.abc import Mapping
from typing import Any

from tramontane.server.notes import Notes
from tramontane.server.structured.format_error import FormatError
from tramontane.server.structured.tool_grammar import ToolRule, ToolRules
from tramontane.server.structured.translation import Job, translate
from tramontane.server.structured.words import Words

JOB_CPU_S = 3
MAX_DATA_BYTES = 512 << 20
STACK_BYTES = 2 << 20


def read_job(fields: Mapping[str, Any]) -> Job:
    tools = fields["tools"]
    if tools is not None:
        tools = ToolRules({int(n): ToolRule(**tool) for n, tool in tools["tools"].items()}, tools["is_parallel"])
    return Job(**{**fields, "words": Words(**fields["words"]), "tools": tools})


def reply_to(line: str) -> dict[str, Any]:
    notes = Notes()
    try:
        grammar = translate(read_job(json.loads(line)), notes)
    except FormatError as error:
        return {"error": str(error), "param": error.param}
    except RecursionError:
        return {"error": "the format asked for is nested too deeply", "param": "response_format"}
    return {"grammar": grammar, "ignored": sorted(notes.ignored)}


def serve() -> None:
    for line in sys.stdin:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime) + JOB_CPU_S, hard))
        print(json.dumps(reply_to(line)), flush=True)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
