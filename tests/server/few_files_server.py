"""`tramontane` where the process may open 128 files.

python -m tests.server.few_files_server serve MODEL --port 0
"""

from __future__ import annotations

import resource

from tramontane.cli.main import main

MAX_FILES = 128

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    main()
