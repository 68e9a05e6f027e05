"""The Markdown table of what was measured: python tests/peer/table.py FOLDER

One line for each row and precision, from its newest result in FOLDER/results.json. Times are
minimum / median of a run (number of runs); ratios are of medians, against the peer with the least;
memory is that of Retort and of the same peer, each what the process grew by over what it took
without a model; on a GPU, what Retort planned and what PyTorch held.
"""

import json
import pathlib
import statistics
import sys

import cases

HEAD = ("| work | Retort | fastest peer | ratio | wanted | PyTorch as it is | memory "
        "| ratio | wanted |\n|---|---|---|---|---|---|---|---|---|")


def median(result, key="seconds"):
    return statistics.median(told[key] for told in result["rounds"])


def ran(result):
    return result is not None and bool(result["rounds"])


def times(result):
    if not ran(result):
        return "-"
    seconds = [told["seconds"] for told in result["rounds"]]
    return f"{min(seconds):.3g} / {statistics.median(seconds):.3g} s ({len(seconds)})"


def fastest_peer(results):
    peers = [name for name in results
             if not name.startswith(cases.OURS) and ran(results[name])]
    return min(peers, key=lambda name: median(results[name]))


def line(title, ours, results, wanted_speed, wanted_memory):
    if not ran(ours):
        return f"| {title} | not run: {ours.get('failed')} |" + " |" * 7
    name = fastest_peer(results)
    peer = results[name]
    memory, other = median(ours, "memory"), median(peer, "memory")
    return (f"| {title} | {times(ours)} | {name} {times(peer)} "
            f"| {median(peer) / median(ours):.2f} | {wanted_speed} "
            f"| {times(results.get(cases.EAGER))} "
            f"| {memory / 2**20:,.0f} of {other / 2**20:,.0f} MiB | {memory / other:.2f} "
            f"| {wanted_memory} |")


def row_lines(row, precision, entry):
    results = entry["results"]
    speed, memory = (wanted.get(precision, "") for wanted in (row.speed, row.memory))
    masks = f" of {entry['masks']} masks" if row.masks else ""
    title = f"{row.title}, batch {entry['batch']}{masks}, {precision}"
    yield line(title, results[cases.OURS], results, speed, memory)
    for budget in row.budgets:
        ours = results.get(cases.within(budget), {"rounds": [], "failed": "no such budget"})
        longer = (f" ({median(ours) / median(results[cases.OURS]):.2f} of its time; at most 1.25)"
                  if ran(ours) and ran(results[cases.OURS]) else "")
        yield line(f"the same in {budget:g} of the memory{longer}", ours, results, "", budget)


def of(results, *names):
    """The medians of these, or None if one of them did not run."""
    if all(ran(results.get(name)) for name in names):
        return [median(results[name]) for name in names]
    return None


def scaling_lines(results, threads, precision):
    batches = (1, 2, 4, 8, 16)
    seconds = of(results, *(f"distill, batch {n}" for n in batches))
    if seconds:
        each = [total / n for total, n in zip(seconds, batches)]
        yield ("seconds per image of a distillation step, batch 1, 2, 4, 8, 16: "
               + ", ".join(f"{value:.3f}" for value in each)
               + f"; largest / smallest {max(each) / min(each):.2f} (wanted: at most 1.10)")
    seconds = of(results, *(f"finetune, {n} masks" for n in (16, 32, 64)))
    if seconds:
        first, second = (seconds[1] - seconds[0]) / 16, (seconds[2] - seconds[1]) / 32
        yield (f"milliseconds per further mask of a fine-tuning step, 16 to 32: {1e3 * first:.1f}, "
               f"32 to 64: {1e3 * second:.1f}")
    for work, other in (("encoder", f"encoder, {threads} threads"),
                        ("distill", "distill, batch 4"), ("finetune", "finetune, 64 masks")):
        seconds = of(results, f"{work}, 1 thread", other)
        if seconds:
            yield (f"{work}, 1 to {threads} threads: {seconds[0] / seconds[1]:.2f}x "
                   "(wanted: at least 1.7x on 2)")


def main():
    path = pathlib.Path(sys.argv[1]) / "results.json"
    newest = {(entry["row"], entry["precision"]): entry for entry in json.loads(path.read_text())}
    notes, machines = [], []
    print(HEAD)
    for row in cases.ALL_ROWS:
        for precision in row.precisions:
            entry = newest.get((row.name, precision))
            if entry is None:
                continue
            machines.append(entry["machine"] | {key: entry[key] for key in ("device", "threads")})
            if row.work == "scaling":
                lines = scaling_lines(entry["results"], entry["threads"], precision)
                notes += [f"- {precision}: {text}" for text in lines]
            else:
                print("\n".join(row_lines(row, precision, entry)))
    print("\n" + "\n".join(notes))
    for told in dict.fromkeys(json.dumps(machine) for machine in machines):
        told = json.loads(told)
        packages = ", ".join(f"{name} {version}" for name, version in told["packages"].items())
        device = told["gpu" if told["device"] == "cuda" else "processor"]
        print(f"\n{told['date']}, {device}, {told['threads']} threads; "
              f"Retort {told['retort']}; {packages}")


if __name__ == "__main__":
    main()
