"""Retort and its peers on the same work, in turns: `make bench-peer`, `make gpu-check`.

    python tests/peer/bench.py FOLDER RETORT [--rows="encoder distill"] [--precisions=f32,bf16]
                               [--repeats=N] [--threads=N] [--pair=FOLDER] [--device=cpu|cuda]
                               [--batch=N] [--masks=N]

For each row and precision every contestant runs once a round, so that whatever the machine does
meanwhile meets all. A peer that takes more than SLOW times the fastest one's time is left out
after the first round: it cannot win, and its time is shown. Before any time counts, results must
be equal (checks.py). --batch and --masks make a row with a batch or masks smaller, to try it. All
is appended to FOLDER/results.json; table.py makes the table.
"""

import argparse
import json
import os
import pathlib
import statistics

import cases
import checks
import machine
from contestants import Failed, Ours, Peer, Released

SLOW = 1.5


class Run:
    """One row in one precision: what its contestants share, and what they did."""

    def __init__(self, row, precision, args):
        self.row, self.precision, self.threads = row, precision, args.threads
        self.device = args.device
        self.folder, self.retort, self.pair = args.folder, args.retort, args.pair
        self.results, self.equality = {}, {}  # by name: rounds, or why there are none

    def turn(self, contestant):
        result = self.results.setdefault(contestant.name, {"rounds": []})
        try:
            told = contestant.measure()
        except Failed as failed:
            result["failed"] = str(failed)
            contestant.stop()
            print(f"  {contestant.name}: {failed}", flush=True)
        else:
            result["rounds"].append(told)
            print(f"  {contestant.name}: {told['seconds']:.3f} s", flush=True)

    def median(self, name, key="seconds"):
        return statistics.median(told[key] for told in self.results[name]["rounds"])

    def fastest(self, contestants):
        ran = [c.name for c in contestants if self.results[c.name]["rounds"]]
        return min(ran, key=self.median)

    def worth_it(self, contestant, fastest):
        result = self.results[contestant.name]
        return "failed" not in result and (
            isinstance(contestant, Ours)
            or self.median(contestant.name) <= SLOW * self.median(fastest))

    def more_rounds(self, contestants, repeats):
        for _ in range(repeats - 1):
            for contestant in contestants:
                self.turn(contestant)
        for contestant in contestants:
            contestant.stop()


# ---- rows against peers ----

def our_words(run):
    row = run.row
    if row.work == "loader":
        return [f"--data.root={run.pair}", "--data.threads=0", "--run.threads=1",
                "--train.batch=1", "--data.flip=0", f"--data.masks_per_image={row.masks}"]
    run.weights = cases.make_weights(run.folder, row.model)
    run.inputs = cases.make_inputs(run.folder, row)
    words = [f"--model=configs/models/{row.model}.yaml", f"--init.weights={run.weights}",
             f"--inputs={run.inputs}", f"--run.threads={run.threads}",
             f"--train.batch={row.batch}"]
    return words + (["--teacher.model="] if row.recipe == cases.DISTILL else [])


def make_peers(run):
    for kind in run.row.peers:
        if kind == cases.RELEASED:
            yield Released(run)
            continue
        yield Peer(run, kind, False)
        if run.row.jemalloc and kind != cases.OPENVINO:
            yield Peer(run, kind, True)


def run_row(run, repeats):
    words = our_words(run)
    ours, peers = Ours(run, cases.OURS, words), list(make_peers(run))
    run.turn(ours)
    if "failed" in run.results[ours.name]:  # a precision that this processor does not have, say
        return
    for contestant in peers:
        run.turn(contestant)
    fastest = run.fastest(peers)
    checks.check(run, [ours, *peers])
    going_on = [c for c in [ours, *peers] if run.worth_it(c, fastest)]
    for contestant in peers:
        if contestant not in going_on:
            contestant.stop()
    for budget in run.row.budgets:
        allowed = int(budget * run.median(fastest, "memory"))
        going_on.append(Ours(run, cases.within(budget), [*words, f"--run.memory_budget={allowed}"]))
        run.turn(going_on[-1])
    run.more_rounds(going_on, repeats)


# ---- Retort alone ----

def run_scaling(run, repeats):
    """What one image, one mask or one thread more costs: no peer, inputs that bench makes up."""
    contestants = []
    for name, work, recipe, words in cases.scaling(run.threads):
        contestants.append(Ours(run, name, words, cases.Row(name, name, work, recipe, 0, repeats)))
    for contestant in contestants:
        run.turn(contestant)
    run.more_rounds([c for c in contestants if "failed" not in run.results[c.name]], repeats)


# ---- all ----

def append(path, entry):
    entries = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps(entries + [entry], indent=1) + "\n")


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("retort", type=pathlib.Path)
    parser.add_argument("--rows", default="")
    parser.add_argument("--precisions", default="f32,bf16")
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pair", default="../shared/data/sa1b/pairs")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--masks", type=int, default=0)
    return parser.parse_args()


def main():
    args = parse()
    args.folder.mkdir(parents=True, exist_ok=True)
    names = args.rows.replace(",", " ").split() or [row.name for row in cases.ROWS]
    for row in cases.ALL_ROWS:
        row.batch, row.masks = args.batch or row.batch, row.masks and (args.masks or row.masks)
        for precision in args.precisions.split(","):
            if row.name not in names or precision not in row.precisions:
                continue
            print(f"{row.title}, {precision}", flush=True)
            run = Run(row, precision, args)
            (run_scaling if row.work == "scaling" else run_row)(run, args.repeats or row.repeats)
            append(args.folder / "results.json",
                   {"row": row.name, "precision": precision, "device": args.device,
                    "batch": row.batch, "masks": row.masks, "threads": args.threads,
                    "equality": run.equality, "results": run.results,
                    "machine": machine.describe()})


if __name__ == "__main__":
    main()
