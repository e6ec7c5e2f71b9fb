"""The short form of every benchmark, in one table: `make bench`, under ten minutes on 2 cores.

python -m benchmarks [NAME ...]     all of them, or those named
"""

import argparse
import importlib
import sys
import time

from benchmarks.table import Line, as_text

NAMES = (
    "labels",
    "evaluation",
    "network",
    "operations",
    "training_step",
    "engine",
    "search_efficiency",
)


def main() -> int:
    """Print what is done on standard error, and the table at the end."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "names", nargs="*", choices=[[], *NAMES], metavar="NAME", help=f"of {', '.join(NAMES)}"
    )
    lines: list[Line] = []
    for name in parser.parse_args().names or NAMES:
        begin = time.monotonic()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        lines += importlib.import_module(f"benchmarks.{name}").lines(short=True)
        print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    print(as_text(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
