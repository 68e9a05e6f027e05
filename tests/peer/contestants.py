"""Those who are measured: a program of Retort, or a peer in a process of its own.

Each has a name, `measure()`, which gives seconds, losses and memory of one run after one that
warms up, and `stop()`. Used by bench.py, which calls them in turns.
"""

import json
import os
import pathlib
import subprocess
import sys

import cases

JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
HERE = pathlib.Path(__file__).parent


class Failed(Exception):
    """A contestant that gives no result, with its own words."""


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no word"


def succeed(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failed(last_line(done.stderr))
    return done.stdout


class Peer:
    """A process of peers.py. It lives through the row if the row says `keep`."""

    def __init__(self, run, kind, jemalloc):
        self.run, self.kind, self.jemalloc = run, kind, jemalloc
        self.name = kind + (", jemalloc" if jemalloc else "")
        self.out = run.folder / f"{run.row.name}.{run.precision}.{self.name}.safetensors"
        self.process, self.first_loss = None, None

    def environment(self):
        env = dict(os.environ, OMP_NUM_THREADS=str(self.run.threads),
                   TORCHINDUCTOR_CACHE_DIR=str((self.run.folder / "inductor").resolve()))
        if self.jemalloc:
            env["LD_PRELOAD"] = JEMALLOC
        return env

    def start(self):
        run = self.run
        words = [run.row.name, self.kind, run.precision, run.device, run.threads, run.weights,
                 run.inputs, self.out]
        self.errors = open(self.out.with_suffix(".log"), "w+")
        self.process = subprocess.Popen([sys.executable, HERE / "peers.py", *map(str, words)],
                                        env=self.environment(), text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors)
        self.first_loss = self.hear()["loss"]

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise Failed(last_line(self.errors.read()))
        return json.loads(line)

    def measure(self):
        if self.process is None:
            self.start()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        said = self.hear()
        said["losses"] = [self.first_loss, said.pop("loss")]
        if not self.run.row.keep:
            self.stop()
        return said

    def stop(self):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()
        self.errors.close()
        self.process = None


class Released:
    """The released loader's pipeline: a process of loader.py for each measurement."""

    name = cases.RELEASED

    def __init__(self, run):
        self.run, self.out = run, run.folder / "loader.released.safetensors"

    def measure(self):
        return json.loads(succeed(sys.executable, HERE / "loader.py", self.run.pair, self.out))

    def stop(self):
        pass


class Ours:
    """`retort bench`, a process for each measurement; of another row than the run's if given.

    On a GPU its memory is what it planned, for it asks the GPU for that once and for nothing else.
    """

    def __init__(self, run, name, words, row=None):
        self.run, self.name, self.words, self.row = run, name, words, row or run.row
        self.out = run.folder / f"{self.row.name}.{run.precision}.retort.safetensors"

    def measure(self):
        run, result = self.run, self.run.folder / "bench.json"
        gives = self.row.work in ("encoder", "loader")
        succeed(run.retort, "bench", self.row.work, self.row.recipe, "--repeat=1",
                f"--json={result}", f"--run.precision={run.precision}",
                f"--run.backend={run.device}",
                *([f"--out={self.out}"] if gives else []), *self.words)
        said = json.loads(result.read_text())
        return {"seconds": said["seconds"][0], "losses": said["losses"],
                "memory": said["planned_bytes" if run.device == "cuda" else "measured_bytes"]}

    def stop(self):
        pass
