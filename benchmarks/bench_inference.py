"""Time of exit decisions compared with the network, and time saved by early exits, on one thread and in one run.

For images, the time of each exit in a model and the time to look up its accuracy are measured. PCEE claims that the
time of the lookup is negligible. With --text, the saving by early exits is measured for the encoder of a study,
sentence by sentence, in layers, MACs and measured seconds. Times are medians. Machines are noisy, so only the ratios
are meaningful.
"""

import argparse
import time
from itertools import islice

import numpy as np
import torch

from offramp import ExitRecord, make_policy
from offramp.evaluation import choose_threshold
from offramp.models import build_model
from offramp.models.costs import exit_costs
from offramp.recording import load_trained

POLICIES = ("confidence", "pcee-ws", "patience", "beem-c", "beem-a")
SENTENCES = 200


def fitted_maps(n_exits, validation):
    """Return PCEE and PCEE-WS fitted on random outputs. The time of a lookup does not depend on the outputs."""
    rng = np.random.default_rng(0)
    confidence, correct = rng.random((validation, n_exits)), rng.random((validation, n_exits)) < 0.8
    record = ExitRecord.from_outputs(
        np.where(correct, 0, 1), confidence, np.zeros(validation, int), np.arange(1.0, n_exits + 1)
    )
    maps = {}
    for name in ("pcee", "pcee-ws"):
        policy = make_policy(name).fit(record)
        maps[name] = policy.maps()
        print(f"{name}: {sum(array.nbytes for array in policy.state.values()) / 1024:,.1f} KiB for {n_exits} exits")
    return maps


@torch.inference_mode()
def times(model, maps, images, repetitions):
    """Return the median seconds of each exit for its computation, and for its softmax and lookup.

    Both have shape (L,). The latter are returned in a dict by the name of the map.
    """
    computing = np.empty((repetitions, model.n_exits))
    deciding = {name: np.empty((repetitions, model.n_exits)) for name in maps}
    for r in range(repetitions):
        exits = model.exits(images)
        for i in range(model.n_exits):
            start = time.perf_counter()
            logits = next(exits)  # (B, C)
            computing[r, i] = time.perf_counter() - start
            for name in list(maps)[:: (-1) ** r]:  # each is first in half of the repetitions, with logits not in cache
                start = time.perf_counter()
                _ = maps[name][i](logits.softmax(1).amax(1).numpy()) >= 0.9  # (B,)
                deciding[name][r, i] = time.perf_counter() - start
    return np.median(computing, 0), {name: np.median(seconds, 0) for name, seconds in deciding.items()}


def on_images(preset, classes, validation, repetitions):
    """Print the time of the decisions of PCEE in an MSDNet."""
    shape = (3, 224, 224) if preset.startswith("imagenet") else (3, 32, 32)
    model = build_model("msdnet", classes=classes, image_shape=shape, preset=preset).eval()
    print(f"MSDNet {preset}, {exit_costs(model, shape).macs[-1] / 1e6:.0f} M MACs, one thread")
    maps = fitted_maps(model.n_exits, validation)
    print("\n| batch | all exits (ms) | PCEE's decisions (ms) | share | PCEE-WS's decisions (ms) | share |")
    print("|---|---|---|---|---|---|")
    for batch in (1, 64):
        computing, deciding = times(model, maps, torch.randn(batch, *shape), repetitions)
        cells = [f"{batch}", f"{1e3 * computing.sum():.2f}"]
        for seconds in deciding.values():
            cells += [f"{1e3 * seconds.sum():.3f}", f"{seconds.sum() / computing.sum():.2%}"]
        print(f"| {' | '.join(cells)} |")


def run_all(model, text):
    """Return the answer of the last exit. All exits are computed, but their outputs are not used."""
    *_, logits = model.exits(text)  # (1, C)
    return logits.argmax(1).item()


def run_early(model, text, exit):
    """Return the answer of an exit, counted from 0. Confidence and answer of all exits up to it are computed."""
    for logits in islice(model.exits(text), exit + 1):  # (1, C)
        confidence, answer = (each.item() for each in logits.softmax(1).max(1))
        _ = confidence
    return answer


@torch.inference_mode()
def text_times(model, texts, exits, repetitions):
    """Return the seconds for all texts, (R, 1 + P): with all exits, then with each policy. `exits` has shape (P, N).

    All ways are timed on a text before the next text, in a new random order, so that other work on the machine affects
    all of them equally.
    """
    rng = np.random.default_rng(0)
    seconds = np.zeros((repetitions, 1 + len(exits)))
    for r in range(repetitions):
        for n, text in enumerate(texts):
            for way in rng.permutation(1 + len(exits)):
                start = time.perf_counter()
                if way == 0:
                    run_all(model, text)
                else:
                    run_early(model, text, exits[way - 1, n])
                seconds[r, way] += time.perf_counter() - start
    return seconds


def on_text(weights, validation, test, repetitions):
    """Print the savings by early exits for a trained encoder that processes one sentence at a time.

    Thresholds are chosen without loss of accuracy on validation data.
    """
    model, source, made = load_trained(weights)
    model.eval()
    validation, test = ExitRecord.load(validation), ExitRecord.load(test)
    for record, split in ((validation, "validation"), (test, "test")):
        if (record.metadata.get("parameters"), record.metadata.get("split")) != (made, split):
            raise ValueError(f"{record}: expected the {split} record of {weights}")
    last = test.n_exits - 1
    rows = np.random.default_rng(0).permutation(test.n_samples)[:SENTENCES]  # (N,)
    timed, accuracy = test.take(rows), validation.correct[:, -1].mean()
    policies = [make_policy(name).fit(validation) for name in POLICIES]
    thresholds = [choose_threshold(policy, validation, accuracy=accuracy) for policy in policies]
    exits = np.stack([policy.exits(timed, threshold) for policy, threshold in zip(policies, thresholds)])  # (P, N)
    pool = "test" if "test" in source.labels else "all"
    texts = [source.inputs(pool, timed.index[[n]], augment=False) for n in range(timed.n_samples)]  # (1, T) each
    with torch.inference_mode():  # also serves as warm-up
        same = sum(run_all(model, text) == answer for text, answer in zip(texts, timed.prediction[:, -1]))
    seconds = text_times(model, texts, exits, repetitions)  # (R, 1 + P)
    print(f"{made['system']}, seed {made['seed']}, on {made['dataset']}: {last + 1} exits, one thread, batch 1")
    print(
        f"{len(texts)} test sentences of {np.median([text.shape[1] for text in texts]):.0f} tokens (median), "
        f"{repetitions} times; {same} answers as recorded"
    )
    print(f"all exits: {1e3 * np.median(seconds[:, 0]) / len(texts):.2f} ms per sentence")
    print(f"accuracy of the last exit: validation {accuracy:.4f}, all of test {test.correct[:, -1].mean():.4f}")
    print("\n| policy | δ | accuracy, all of test | speed-up in layers | in MACs | in seconds (lowest to highest) |")
    print("|---|---|---|---|---|---|")
    full = timed.cost_of(np.full(len(texts), last)).sum()
    for p, (policy, threshold) in enumerate(zip(policies, thresholds)):
        right = test.correct[np.arange(test.n_samples), policy.exits(test, threshold)].mean()
        ratios = seconds[:, 0] / seconds[:, 1 + p]  # (R,)
        cells = [policy.name, f"{threshold:.4g}", f"{right:.4f}", f"{(last + 1) / (1 + exits[p].mean()):.2f}"]
        cells += [f"{full / timed.cost_of(exits[p]).sum():.2f}"]
        cells += [f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"]
        print(f"| {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cifar-large", help="preset of MSDNet")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--validation", type=int, default=5_000, help="number of samples that PCEE-WS stores")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument(
        "--text",
        nargs=3,
        metavar=("WEIGHTS", "VALIDATION", "TEST"),
        help="instead of images: a trained encoder and its records",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.text:
        on_text(*args.text, args.repetitions)
    else:
        on_images(args.preset, args.classes, args.validation, args.repetitions)


if __name__ == "__main__":
    main()
