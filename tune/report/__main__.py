"""`python -m tune.report`, the command line of the report."""

import sys

from tune.report.page import main

if __name__ == "__main__":
    sys.exit(main())
