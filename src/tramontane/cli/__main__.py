"""`python -m tramontane.cli`: the `tramontane` command without its script."""

from tramontane.cli.main import main

main()
