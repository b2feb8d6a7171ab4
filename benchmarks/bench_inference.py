"""What deciding costs beside computing: each exit's time in a model, and that of looking its accuracy up.

PCEE's claim is that its table costs nothing to speak of. Times are medians; machines are noisy, so read the ratios.
"""

import argparse
import time

import numpy as np
import torch

from offramp import ExitRecord, make_policy
from offramp.costs import exit_costs
from offramp.models import build_model


def fitted_maps(n_exits, validation):
    """PCEE and PCEE-WS fitted on random outputs: the lookup's cost does not depend on what they say."""
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
    """Median seconds of each exit's computation, and of its softmax and lookup: (L,) each, lookups by map."""
    computing = np.empty((repetitions, model.n_exits))
    deciding = {name: np.empty((repetitions, model.n_exits)) for name in maps}
    for r in range(repetitions):
        exits = model.exits(images)
        for i in range(model.n_exits):
            start = time.perf_counter()
            logits = next(exits)  # (B, C)
            computing[r, i] = time.perf_counter() - start
            for name in list(maps)[:: (-1) ** r]:  # each comes first half of the time: logits are cold then
                start = time.perf_counter()
                _ = maps[name][i](logits.softmax(1).amax(1).numpy()) >= 0.9  # (B,)
                deciding[name][r, i] = time.perf_counter() - start
    return np.median(computing, 0), {name: np.median(seconds, 0) for name, seconds in deciding.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cifar-large", help="of MSDNet")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--validation", type=int, default=5_000, help="samples that PCEE-WS remembers")
    parser.add_argument("--repetitions", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = (3, 224, 224) if args.preset.startswith("imagenet") else (3, 32, 32)
    model = build_model("msdnet", classes=args.classes, image_shape=shape, preset=args.preset).eval()
    print(f"MSDNet {args.preset}, {exit_costs(model, shape).macs[-1] / 1e6:.0f} M MACs, one thread")
    maps = fitted_maps(model.n_exits, args.validation)
    print("\n| batch | all exits (ms) | PCEE's decisions (ms) | share | PCEE-WS's decisions (ms) | share |")
    print("|---|---|---|---|---|---|")
    for batch in (1, 64):
        computing, deciding = times(model, maps, torch.randn(batch, *shape), args.repetitions)
        cells = [f"{batch}", f"{1e3 * computing.sum():.2f}"]
        for seconds in deciding.values():
            cells += [f"{1e3 * seconds.sum():.3f}", f"{seconds.sum() / computing.sum():.2%}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
