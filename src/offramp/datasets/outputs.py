"""Published outputs of trained models on labelled samples, in place of the samples themselves."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from offramp._registry import find
from offramp.datasets.download import data_folder, fetch, read_checked
from offramp.datasets.labelled import Labelled, Published, published

Outputs = dict[str, np.ndarray]  # labels (N,), and either logits (N, C), or prediction (N,) and max_softmax (N,)

# 14 models of timm and torchvision on the 50,000 validation images of ImageNet, sorted by class. MIT licence
IMAGENET_URL = (
    "https://raw.githubusercontent.com/hollance/reliability-diagrams/e133f3d3a63356920c7d5cb7b032c3e03b38afb5/results/"
)
IMAGENET_FILES = {
    "ImageNet_pytorch-image-models/densenetblur121d.csv": [
        "f5eefeb3afe0e090303208c7d53e9b66f463bb2181380f10aac7dd85c2284846"
    ],
    "ImageNet_pytorch-image-models/efficientnet_b1.csv": [
        "3f0c1adcba3ce3a4603de7c4fb371cfbc38a93866424bdab5e1f149c9dd6cafc"
    ],
    "ImageNet_pytorch-image-models/efficientnet_b3a.csv": [
        "c8402811815716aef8e8312f4e1a9f71516c8f99d9102374d3da6a5cd1704ef9"
    ],
    "ImageNet_pytorch-image-models/ese_vovnet19b_dw.csv": [
        "6946eb06cefeffb94798f45a3f2c1372ebefa9e463ce5073d0923bbbcadadb87"
    ],
    "ImageNet_pytorch-image-models/gluon_senet154.csv": [
        "af3541f4fb4eb9a6f2ebc862d8aa47e102d0e096c9319184ec6a124c0ce70443"
    ],
    "ImageNet_pytorch-image-models/mixnet_m.csv": ["d2c085653edb52fd468e79f5d73135169d8ccd7b7e7c815a773c85c2628c5bfa"],
    "ImageNet_pytorch-image-models/mobilenetv3_large_100.csv": [
        "a4e07d5a8c4c4bbdcc206b369130227820db435f9233e8579a0386bee2051695"
    ],
    "ImageNet_pytorch-image-models/resnet34.csv": ["b123aebe9a94f4fe33958fa74b6411a1809f3b7f517189c8be2252befd3e91ae"],
    "ImageNet_pytorch-image-models/resnext50_32x4d.csv": [
        "85afef372b11427a32ebbfc08d6357af6a4d09f2174b530d0317f192ca964beb"
    ],
    "ImageNet_pytorch-image-models/tf_inception_v3.csv": [
        "3d2e1c797eab523d2b262fac914c95ab50ae72e162859ddb9dd4b2af36d3d940"
    ],
    "ImageNet_torchvision/densenet161.csv": ["7d0e3e257a4ca5f68a6de1bef4d81a0f42b7918cd5d9944a00e5ea2c3809f9f5"],
    "ImageNet_torchvision/inception_v3.csv": ["f4e095e18af52bb0da349f8f38a2d17c67bdc7631abcaa057ccdd0a68318b607"],
    "ImageNet_torchvision/resnet101.csv": ["58e3b67f277eec8c6b5b60a1d1ece80da09fcc5d216bc0248a0105b9db58d3cd"],
    "ImageNet_torchvision/resnext101_32x8d.csv": ["fb3c23fc7e9b9765df2f14a062f7615186962309e3b583e49b94fb5470d6c267"],
}

# 3 networks on the 10,000 test images of CIFAR-100. Apache-2.0 licence
CIFAR100_URL = (
    "https://raw.githubusercontent.com/EFS-OpenSource/calibration-framework/2a3db8d7cb2a557f3b563c98ce00954f43dfe927/"
    "examples/classification/records/cifar100/"
)
CIFAR100_FILES = {
    "densenet-bc-100-cifar-100.npz": ["6b8c33de93bdf1ae7de335f485c73c9f7198b359f85de6b1f21066a7e7c6379e"],
    "lenet-5-cifar-100.npz": ["45807c28708ba788ef3e4d9f9d25f59ebe93a2eb5d4dd5fa8380095636a244a0"],
    "wideresnet-16-4-cifar-100.npz": ["ab3ce671b234521fe346977df2bb1c755a2c96b1781c350cef76be0ad36e5e12"],
}


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputsDataset(Labelled):
    """Labels of samples, and the stored outputs of several models on them. All samples are one pool, "all".

    Parameters
    ----------
    files : mapping of str to sequence of str
        The accepted hashes of each file, by its name in the data folder. There is one file per model.
    read : callable
        Function from the content of a file (bytes) to its outputs and labels.
    """

    files: Mapping[str, list[str]] = field(repr=False)
    read: Callable[[bytes], Outputs] = field(repr=False)

    def outputs(self, file: str) -> Outputs:
        """Read the outputs of one model.

        Parameters
        ----------
        file : str
            Name of its file.

        Returns
        -------
        dict of str to ndarray
            Either logits (N, C), or prediction (N,) and max_softmax (N,).

        Raises
        ------
        ValueError
            If there is no such file, if it is damaged, or if its labels are not those of the dataset.
        """
        find(self.files, f"file of {self.name}", file)
        path = data_folder(self.name) / file
        outputs = self.read(read_checked(path, self.files[file]))
        labels, expected = outputs.pop("labels"), self.labels["all"]
        if len(labels) != len(expected):
            raise ValueError(f"{path}: {len(labels)} samples; expected {len(expected)}, as in the other files")
        if (differ := labels != expected).any():
            n = differ.argmax()
            raise ValueError(
                f"{path}: sample {n + 1} has the label {labels[n]}; expected {expected[n]}, as in the other files"
            )
        return outputs


@published(lambda **_: Published({"all": 50_000}, 1000, list(IMAGENET_FILES)))
def load_imagenet_outputs(costs: str | None = None) -> OutputsDataset:
    """Load the labels of ImageNet's validation images, and the predictions and max softmax of 14 models on them.

    Parameters
    ----------
    costs : str, optional
        Path of a table of public models, as in data/timm, in which `offramp record` looks up the cost of a model.

    Raises
    ------
    ValueError
        If a file cannot be downloaded or is not the expected one.
    """
    return _load("imagenet_outputs", 1000, IMAGENET_URL, IMAGENET_FILES, read_predictions)


@published(lambda **_: Published({"all": 10_000}, 100, list(CIFAR100_FILES)))
def load_cifar100_outputs() -> OutputsDataset:
    """Load the labels of CIFAR-100's test images, and the probabilities of 3 networks on them, as logits.

    Raises
    ------
    ValueError
        If a file cannot be downloaded or is not the expected one.
    """
    return _load("cifar100_outputs", 100, CIFAR100_URL, CIFAR100_FILES, read_probabilities)


def _load(
    name: str, classes: int, url: str, files: Mapping[str, list[str]], read: Callable[[bytes], Outputs]
) -> OutputsDataset:
    """Fetch the files that are missing. The labels are those of the first file."""
    folder = data_folder(name)
    fetch(folder, url, files)
    first = next(iter(files))
    labels = read(read_checked(folder / first, files[first]))["labels"]
    return OutputsDataset(name=name, classes=classes, labels={"all": labels}, files=files, read=read)


def read_predictions(content: bytes) -> Outputs:
    """Read a table with the columns true_label, pred_label and confidence, whose numbers are those of float32."""
    import pandas as pd

    table = pd.read_csv(io.BytesIO(content))
    return {
        "labels": table["true_label"].to_numpy(np.int64),
        "prediction": table["pred_label"].to_numpy(np.int64),
        "max_softmax": table["confidence"].to_numpy(np.float32),
    }


def read_probabilities(content: bytes) -> Outputs:
    """Read an archive with ground_truth (N,) and predictions (N, C), which are probabilities.

    Their logarithm takes the place of logits: its softmax is the probabilities. A probability of 0 counts as the
    smallest float32, 1.2e-38, whose logarithm is finite.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        labels, probabilities = file["ground_truth"], file["predictions"]  # (N,), (N, C)
    floor = np.finfo(np.float32).tiny
    return {"labels": labels.astype(np.int64), "logits": np.log(np.maximum(probabilities, floor))}
