"""`python -m charlm`, the same as `charlm`."""

from charlm.cli.main import main

main()
