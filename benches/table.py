#!/usr/bin/env python3
"""Prints the medians of a criterion run as markdown, one table for each group.

    benches/table.py [DIRECTORY]        default: target/criterion

A cell of a peer has its median and, in brackets, how many times as long as gusset it took.
"""

import json
import pathlib
import sys

UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0))


def time(nanos):
    unit, size = next((u for u in UNITS if nanos >= u[1]), UNITS[-1])
    return f"{nanos / size:.3g} {unit}" if nanos < 1000 * size else f"{nanos / size:.0f} {unit}"


def read(directory):
    """{group: {case: {contender: median in ns}}}, as criterion left them in `new/`."""
    groups = {}
    for file in sorted(directory.glob("**/new/estimates.json")):
        benchmark = json.loads(file.with_name("benchmark.json").read_text())
        case, _, contender = benchmark["function_id"].rpartition("/")
        median = json.loads(file.read_text())["median"]["point_estimate"]
        groups.setdefault(benchmark["group_id"], {}).setdefault(case, {})[contender] = median
    return groups


def table(cases):
    found = {contender for medians in cases.values() for contender in medians}
    first = [contender for contender in ("gusset", "bare") if contender in found]
    peers = first + sorted(found.difference(first))
    yield "| case | " + " | ".join(peers) + " |"
    yield "|---|" + "---:|" * len(peers)
    for case, medians in sorted(cases.items()):
        ours = medians.get("gusset")
        cells = []
        for peer in peers:
            cell = time(medians[peer]) if peer in medians else ""
            if cell and ours and peer != "gusset":
                cell += f" (×{medians[peer] / ours:.2f})"
            cells.append(cell)
        yield f"| {case} | " + " | ".join(cells) + " |"


def main():
    directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/criterion")
    groups = read(directory)
    if not groups:
        sys.exit(f"no estimates.json under {directory}")
    for group, cases in sorted(groups.items()):
        print(f"## {group}\n")
        print("\n".join(table(cases)), end="\n\n")


if __name__ == "__main__":
    main()
