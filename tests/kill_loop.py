"""Kill a running study at random moments, follow the instructions of its message, and run it again until it is done.

`python tests/kill_loop.py --kills 25` prints one row per kill, and compares the result with an undisturbed run.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checkout import ENVIRONMENT, Checkout, told_jobs

TOLD = "It can be removed with the --unlock argument."
LEFT_BEHIND = ("*.partial", "*.checkpoint", "*.old")


@dataclass
class Kill:
    after: float  # seconds
    running: list[str]  # jobs
    left: list[str]  # partially written files
    then: list[str] = field(default_factory=list)  # the next commands, and their exit status

    def __str__(self) -> str:
        cells = [", ".join(texts) or "-" for texts in (self.running, self.left, self.then)]
        return f"{self.after:7.1f} | {' | '.join(cells)}"


def running(output: str) -> list[str]:
    """Return the jobs that had started but not finished, according to the output of Snakemake."""
    begun = {}
    for rule, system, block in told_jobs(output):
        if number := re.search(r"^    jobid: (\d+)$", block, re.MULTILINE):
            begun[number[1]] = f"{rule} {system}".strip()
    for number in re.findall(r"^Finished jobid: (\d+)", output, re.MULTILINE):
        begun.pop(number, None)
    return list(begun.values())


def half_done(checkout: Checkout) -> list[str]:
    return sorted(path.name for pattern in LEFT_BEHIND for path in checkout.folder.rglob(pattern))


def run_and_kill(
    checkout: Checkout, kills: int, chance: random.Random, longest: float, cores: int = 2, targets: Sequence[str] = ()
) -> Iterator[Kill]:
    """Run the study, or these targets, to the end, killed up to this number of times. Yield each kill after the next
    run."""
    kill, output = None, checkout.folder / "output.txt"
    while True:
        with output.open("w") as file:
            process = subprocess.Popen(
                ["snakemake", "--nocolor", "--cores", str(cores), *targets],
                cwd=checkout.folder,
                env=ENVIRONMENT,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            begin = time.monotonic()
            try:
                code = process.wait(chance.uniform(2, longest) if kills else None)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
        text = output.read_text()
        if kill:
            kill.then.append(f"run: {code}")
            if code <= 0:
                yield kill
        if code < 0:
            kills -= 1
            kill = Kill(time.monotonic() - begin, running(text), half_done(checkout))
        elif code == 0:
            output.unlink()
            return
        else:
            assert TOLD in " ".join(text.split()), text
            unlocked = checkout.run("--unlock")
            assert unlocked.returncode == 0, unlocked.stderr
            kill.then.append("unlock: 0")


def differences(checkout: Checkout, undisturbed: dict[str, bytes], targets: Sequence[str] = ()) -> list[str]:
    """Return differences from an undisturbed run: changed, missing or additional files, locks, and remaining jobs."""
    found = checkout.artifacts()
    wrong = [name for name in sorted(found.keys() | undisturbed.keys()) if found.get(name) != undisturbed.get(name)]
    wrong += half_done(checkout) + [str(path) for path in (checkout.folder / ".snakemake/locks").glob("*")]
    if "Nothing to be done" not in (again := checkout.run("--cores", "2", *targets)).stdout + again.stderr:
        wrong.append("jobs left to do")
    return wrong


def new_checkout(folder: Path) -> Checkout:
    folder.mkdir()
    return Checkout(folder)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=25)
    options.add_argument("--each", type=int, default=9, help="kills within one study, at most")
    options.add_argument("--longest", type=float, default=40, help="seconds that a run may take before it is killed")
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        fresh = new_checkout(Path(folder, "fresh"))
        calm = fresh.copy(Path(folder, "calm"))
        if (ended := calm.run("--cores", "2")).returncode:
            raise SystemExit(ended.stderr)
        undisturbed = calm.artifacts()
        kills, studies, wrong = 0, 0, []
        print("kill | seconds | jobs running | left behind | then", flush=True)
        while kills < options.kills:
            studies += 1
            study = fresh.copy(Path(folder, f"study-{studies}"))
            for kill in run_and_kill(study, min(options.each, options.kills - kills), chance, options.longest):
                kills += 1
                print(f"{kills:4} | {kill}", flush=True)
            found = differences(study, undisturbed)
            print(
                f"study {studies} is done; differs from the undisturbed run in: {', '.join(found) or 'nothing'}",
                flush=True,
            )
            wrong += found
    print(f"{kills} kills, {studies} studies, {len(wrong)} differences")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
