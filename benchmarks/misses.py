"""Look for an interval that misses: centred, standardised, low-rank, product and svds cases.

python -P benchmarks/misses.py [--cases 20000] [--first 0] [--kind "product"]

Matrices come from `tests.exact`, with offsets up to 1e12, their singular values from extended
precision. Prints one line a miss, then what was tried. Exit status 1 if anything missed.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time

from tests.exact import KINDS, misses


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    options = parser.parse_args()
    kinds = [options.kind] if options.kind else list(KINDS)
    missed, failed, began = collections.Counter(), collections.Counter(), time.monotonic()
    for seed in range(options.first, options.first + options.cases):
        kind = kinds[seed % len(kinds)]
        try:
            wrong = misses(kind, seed)
        except Exception as error:  # counted and shown: a crash is a find, too
            failed[kind, type(error).__name__] += 1
            print(f"{kind} {seed}: {type(error).__name__}: {error}", flush=True)
            continue
        missed[kind] += bool(wrong)
        for text in wrong:
            print(f"{kind} {seed}: {text}", flush=True)
    seconds = time.monotonic() - began
    print(f"{options.cases} cases in {seconds:.0f} s; missed {dict(missed)}; failed {dict(failed)}")
    sys.exit(bool(missed.total() or failed.total()))


if __name__ == "__main__":
    main()
