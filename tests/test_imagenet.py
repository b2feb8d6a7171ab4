"""ImageNet's loader, on small trees of real image files: what is decoded, when, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.datasets import load_dataset
from offramp.datasets.batches import SeededSamples, ShuffledBatches, batch_loader, batches_in_order
from offramp.datasets.splits import make_splits

CLASSES = ["n01", "n02", "n03"]
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_tree(root, train=4, val=2):
    """Images of all sizes in train and val, as JPEG files."""
    sizes = np.random.default_rng(0)
    for folder, count in {"train": train, "val": val}.items():
        for name in CLASSES:
            (root / folder / name).mkdir(parents=True)
            for i in range(count):
                height, width = sizes.integers(20, 80, 2)
                Image.fromarray(noise(height, width, i)).save(root / folder / name / f"{name}_{i}.JPEG")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture
def own_tree(tmp_path):
    return write_tree(tmp_path, 2, 2)


def load(root, **options):
    return load_dataset("imagenet", **{"root": str(root), "size": 28, "classes": 3, **options})


def test_the_tree_becomes_pools_with_labels_by_name(tree):
    dataset = load(tree)
    assert (dataset.name, dataset.classes, dataset.image_shape) == ("imagenet", 3, (3, 28, 28))
    assert dataset.labels["train"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.labels["test"].tolist() == [0, 0, 1, 1, 2, 2]
    splits = make_splits(dataset, validation=3, seed=0)
    assert splits.groupby("split")["pool"].unique().map(list).to_dict() == {
        "train": ["train"],
        "validation": ["train"],
        "test": ["test"],
    }
    images, labels = dataset.samples(splits, "test")[np.array([5, 0])]
    assert type(images) is torch.Tensor
    assert (images.shape, images.dtype) == ((2, 3, 28, 28), torch.float32)
    assert labels.tolist() == [2, 0]


def test_the_folder_for_datasets_is_the_default(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("OFFRAMP_DATA", str(tmp_path))
    (tmp_path / "imagenet").symlink_to(tree)
    assert len(load_dataset("imagenet", classes=3).labels["train"]) == 12


@pytest.mark.parametrize(("height", "width"), [(32, 44), (38, 32)])
def test_the_centre_is_what_is_tested(own_tree, height, width):
    pixels = noise(height, width)
    Image.fromarray(pixels).save(own_tree / "val" / "n02" / "a.png")  # its short side is 32 = 28 · 256/224 already
    dataset = load(own_tree)
    image = dataset.inputs("test", np.array([2]), augment=False)[0]
    top, left = (height - 28) // 2, (width - 28) // 2
    expected = torch.from_numpy(pixels[top : top + 28, left : left + 28]).permute(2, 0, 1) / 255
    torch.testing.assert_close(image * STD + MEAN, expected, atol=1e-6, rtol=0)


def test_the_short_side_is_resized(own_tree):
    pixels = np.zeros((64, 128, 3), np.uint8)  # halved, 32 × 64: the centre, columns 18 … 45, is of columns 36 … 91
    pixels[:, 64:] = 255
    Image.fromarray(pixels).save(own_tree / "val" / "n01" / "a.png")
    image = load(own_tree).inputs("test", np.array([0]), augment=False)[0] * STD + MEAN
    assert image[:, :, :12].abs().max() < 1e-5
    assert (image[:, :, 16:] - 1).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("1", "png")]
)
def test_images_of_every_mode_come_in_colour(own_tree, mode, suffix):
    Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode).save(own_tree / "val" / "n01" / f"a.{suffix}")
    image = load(own_tree).inputs("test", np.array([0]), augment=False)[0]
    torch.testing.assert_close(image * STD + MEAN, torch.ones(3, 28, 28), atol=0.01, rtol=0)


def test_augmentation_is_by_the_seed_alone(tree):
    dataset = load(tree)

    def draw(seed):
        torch.manual_seed(seed)
        return dataset.inputs("train", np.array([3, 3]), augment=True)

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert not torch.equal(*draw(0))  # each image on its own
    before = torch.random.get_rng_state()
    dataset.inputs("train", np.array([3]), augment=False)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_worker_processes_make_the_same_batches(tree):
    dataset = load(tree)
    samples = dataset.samples(make_splits(dataset, validation=3, seed=0), "train", augment=True)

    def epoch(workers):
        return list(batch_loader(SeededSamples(samples), ShuffledBatches(9, 4, 0), workers, torch.device("cpu")))

    for (here, labels), (there, labels_there) in zip(epoch(0), epoch(2), strict=True):
        assert torch.equal(here, there)
        assert torch.equal(labels, labels_there)


DAMAGE = {
    "no image": lambda content: b"hello",
    "empty": lambda content: b"",
    "half a header": lambda content: content[:30],
    "half an image": lambda content: content[: len(content) // 2],
    "an image but its end": lambda content: content[:-200],
}


@pytest.mark.parametrize("suffix", ["JPEG", "png"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_an_unreadable_image_is_named_when_it_is_asked_for(own_tree, damage, suffix):
    path = own_tree / "val" / "n02" / f"a.{suffix}"
    Image.fromarray(noise(200, 300)).save(path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    dataset = load(own_tree)  # reads no image
    with pytest.raises(ValueError, match="unreadable image") as error:
        dataset.inputs("test", np.array([2]), augment=False)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_worker_process_says_the_same_of_an_unreadable_image(own_tree, workers):
    path = own_tree / "val" / "n02" / "a.JPEG"
    path.write_bytes(b"hello")
    dataset = load(own_tree)
    samples = dataset.samples(make_splits(dataset, validation=3, seed=0), "test")
    loader = batch_loader(samples, batches_in_order(7, 2), workers, torch.device("cpu"))
    with pytest.raises(ValueError, match="unreadable image") as error:
        list(loader)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def refused(root, message, **options):
    with pytest.raises(ValueError, match=message) as error:
        load(root, **options)
    assert "\n" not in str(error.value)


def test_a_missing_folder_says_what_is_expected_and_where_it_is_set(own_tree, tmp_path):
    refused(tmp_path / "nowhere", r"nowhere/train: expected .*nowhere/train/CLASS/\*\.JPEG .*root .* params\.yaml")
    (own_tree / "val").rename(own_tree / "validation")
    refused(own_tree, r"/val: expected .*/val/CLASS/\*\.JPEG \(No such file or directory\)")


def test_images_outside_class_folders_are_refused(own_tree):
    for folder in sorted((own_tree / "val").iterdir()):
        for image in folder.iterdir():
            image.rename(own_tree / "val" / image.name)  # as ILSVRC's archive has them
        folder.rmdir()
    refused(own_tree, r"/val: expected .*/val/CLASS/.* find any class folder")


def test_a_class_too_many_or_too_few_is_refused(own_tree):
    refused(own_tree, "3 class folders in train and val each, expected 1000", classes=1000)
    refused(own_tree, "3 class folders in train and val each, expected 2", classes=2)
    (own_tree / "train" / "n04").mkdir()
    refused(own_tree, "/train: .*no valid file for the classes n04")
    Image.fromarray(noise(20, 20)).save(own_tree / "train" / "n04" / "a.JPEG")
    refused(own_tree, "/train: class folder n04, which .*/val lacks")
    (own_tree / "train" / "n04").rename(own_tree / "val" / "n04")
    refused(own_tree, "/val: class folder n04, which .*/train lacks")


# Models that were trained elsewhere


def test_all_splits_may_be_of_the_validation_folder(tmp_path):
    root = write_tree(tmp_path, 0, 4)
    dataset = load(root, folder="val")
    assert {pool: len(labels) for pool, labels in dataset.labels.items()} == {"all": 12}
    splits = make_splits(dataset, validation=3, test=6, seed=0)
    assert splits["pool"].unique() == ["all"]
    assert all(f"{root}/val/".encode() in path for path in dataset.paths["all"])


def test_images_may_be_prepared_as_a_model_of_timm_wants_them(tree):
    """Its own size, crop, interpolation and normalisation: here those of BEiT, which none of ours are."""
    from timm.data import create_transform

    name = "beit_base_patch16_384.in22k_ft_in22k_in1k"
    dataset = load(tree, prepare=name)
    assert dataset.image_shape == (3, 384, 384)
    prepare = create_transform(
        (3, 384, 384), interpolation="bicubic", crop_pct=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    with Image.open(tree / "val" / "n01" / "n01_1.JPEG") as image:
        expected = prepare(image.convert("RGB"))
    torch.testing.assert_close(dataset.inputs("test", np.array([1]), augment=False)[0], expected)
    augmented = dataset.inputs("test", np.array([1]), augment=True)[0]
    assert augmented.shape == (3, 384, 384)
    assert -1 <= augmented.min() < 0 < augmented.max() <= 1
    with pytest.raises(ValueError, match=r"timm knows no model 'beit_huge'; expected one of `timm\.list_pretrained"):
        load(tree, prepare="beit_huge")


def test_each_model_of_a_study_sees_the_images_in_its_own_way(tmp_path):
    """The path of `zoo_imagenet` on a few images, with weights from a folder in place of the hub's."""
    timm = pytest.importorskip("timm")
    yaml = pytest.importorskip("yaml")
    from checkout import ROOT, Checkout
    from offramp import ExitRecord

    root = write_tree(tmp_path / "images", 0, 16)
    torch.manual_seed(0)
    models = {}
    for name, prepare in (("small", "test_resnet.r160_in1k"), ("large", "test_resnet.r160_in1k")):
        timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=3), tmp_path / name)
        models[name] = {"model": "timm", "backbone": f"local-dir:{tmp_path / name}", "pretrained": True}
        models[name]["dataset"] = {"prepare": prepare}
    models["large"]["dataset"] = {"size": 96}
    checkout = Checkout(tmp_path / "study")
    study = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]["zoo_imagenet"]
    study |= {
        "dataset": {"name": "imagenet", "folder": "val", "root": str(root), "classes": 3, "size": 64},
        "splits": {"validation": 12, "test": 30, "seed": 0},
        "models": models,
        "cascades": {"both": ["small", "large"]},
        "training": {"epochs": 0, "workers": 0},
        "times": {},
        "shifts": {},
        "accelerate": {},
    }
    study["report"] |= {"oracle": "both", "reliability": "both"}
    study["calibration"]["fit_share"] = 1  # too few to hold some out
    checkout.write(study)
    checkout.run_here("records")
    folder = checkout.folder / "artifacts/tiny/records"
    small, large, both = (ExitRecord.load(folder / f"{name}-s0/test.safetensors") for name in (*models, "both"))
    assert (small.n_samples, small.n_exits) == (30, 1)
    assert small.metadata["parameters"]["training"]["epochs"] == 0  # the weights stay as they came
    np.testing.assert_array_equal(small.index, large.index)
    assert small.cost[0] / large.cost[0] == pytest.approx((160 / 96) ** 2, rel=0.05)  # each at its own size
    np.testing.assert_array_equal(both.prediction, np.hstack([small.prediction, large.prediction]))
