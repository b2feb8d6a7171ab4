"""Time of training, compared with a plain loop in the same run: `python benchmarks/bench_training.py`.

The ways to train alternate in rounds, so that other work on the machine affects all of them equally. The time of a way
is that of its fastest round. Machines are different and noisy, so only the ratios are meaningful.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from offramp._io.progress import progress_bar
from offramp.cli.options import Spec
from offramp.datasets import load_dataset
from offramp.datasets.batches import SeededSamples, ShuffledBatches, batch_loader
from offramp.datasets.splits import make_splits
from offramp.models import build_model
from offramp.training.device import default_device, torch_settings
from offramp.training.loop import make_optimizer, train_epoch, wrap_for_training
from offramp.training.options import TrainingOptions


@dataclass(frozen=True)
class Way:
    """A way to train: the plain loop with additions, or offramp."""

    name: str
    ours: bool = False
    memory_format: torch.memory_format = torch.channels_last
    bfloat16: bool = False
    compile: bool = False  # only for offramp

    def loop(self, build, device, threads):
        """Return a function that trains on batches and returns when the device has finished."""
        torch.manual_seed(0)
        model = build().to(device, memory_format=self.memory_format)
        if self.ours:
            options = TrainingOptions(compile=self.compile)
            stepping, optimizer = wrap_for_training(model, options), make_optimizer(model, options)

            def run(batches):
                sizes = [len(labels) for _, labels in batches]
                with torch_settings(threads), progress_bar(len(batches), "", shown=False) as bar:
                    train_epoch(stepping, batches, sizes, optimizer, options, 0, bar, {})

            return run

        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

        def run(batches):
            torch.set_num_threads(threads)
            for images, labels in batches:
                images, labels = images.to(device), labels.to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                    logits = model(images)  # (B, L, C)
                loss = sum(cross_entropy(logits[:, exit].float(), labels) for exit in range(logits.shape[1]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss.item()

        return run


def timed(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def steps_side_by_side(model, args):
    """Print the images per second for every way to train."""
    name, options = Spec().convert(model, None, None)
    device = torch.device(default_device())
    shape = (3, args.image_size, args.image_size)

    def build():
        return build_model(name, classes=args.classes, image_shape=shape, **options)

    ways = [
        Way("plain loop: NCHW, float32", memory_format=torch.contiguous_format),
        Way("plain loop, channels-last"),
        Way("plain loop, channels-last, bfloat16", bfloat16=True),
        Way("offramp train", ours=True),
    ]
    if args.compile:
        ways.append(Way("offramp train --compile", ours=True, compile=True))
    torch.manual_seed(0)
    batch = torch.randn(args.batch_size, *shape), torch.randint(args.classes, (args.batch_size,))
    print(f"\n{model}, images {shape}, batches of {args.batch_size}, {device.type}, {args.threads} threads")
    loops = [way.loop(build, device, args.threads) for way in ways]
    started = [timed(loop, [batch]) for loop in loops]
    rounds = [[timed(loop, [batch] * args.steps) for loop in loops] for _ in range(args.rounds)]
    seconds = np.min(rounds, axis=0) / args.steps  # (ways,)
    print(f"\n| {'way':<46} | ratio | images/s | first step, s |")
    print(f"|{'-' * 48}|{'-' * 7}|{'-' * 10}|{'-' * 15}|")
    for way, first, step in zip(ways, started, seconds, strict=True):
        print(f"| {way.name:<46} | {seconds[0] / step:>5.2f} | {args.batch_size / step:>8.1f} | {first:>13.1f} |")


def loading_side_by_side(args):
    """Print the images per second from JPEG files like those of ImageNet, by the number of decoding processes."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for split, n in ("train", 4 * args.batch_size), ("val", 1):
            where = Path(folder, split, "class")
            where.mkdir(parents=True)
            for i in range(n):
                coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8))
                coarse.resize((500, 375), Image.Resampling.BICUBIC).save(where / f"{i}.jpeg", quality=95)
        dataset = load_dataset("imagenet", root=folder, classes=1)
        splits = make_splits(dataset, validation=1, seed=0)
        samples = SeededSamples(dataset.samples(splits, "train", augment=True))
        order = ShuffledBatches(len(samples.samples), args.batch_size, seed=0)
        torch.set_num_threads(1)
        loaders = {n: batch_loader(samples, order, n, torch.device("cpu")) for n in args.workers}
        for loader in loaders.values():
            list(loader)  # starts the workers
        rounds = [[timed(list, loader) for loader in loaders.values()] for _ in range(args.rounds)]
        seconds = np.min(rounds, axis=0)  # (workers,)
    print("\nJPEG files of 500 × 375 pixels, decoded, cropped to 224 × 224 and flipped horizontally:")
    print("\n| workers | ratio | images/s |\n|---------|-------|----------|")
    for n, taken in zip(loaders, seconds, strict=True):
        print(f"| {n:>7} | {seconds[0] / taken:>5.2f} | {len(samples.samples) / taken:>8.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="*",
        metavar="NAME[:option=value,…]",
        default=["msdnet:preset=cifar-small", "vit:backbone=vit_tiny_patch16_224,patch_size=8"],
        help="default: %(default)s",
    )
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="for the JPEG loader; none: skip it")
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="skip compilation, which takes minutes on a CPU"
    )
    args = parser.parse_args()
    for model in args.models:
        steps_side_by_side(model, args)
    if args.workers:
        loading_side_by_side(args)


if __name__ == "__main__":
    main()
