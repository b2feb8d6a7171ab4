"""A small real record, for the examples of the documentation and for trying things."""

from pathlib import Path

from offramp.records.record import ExitRecord


def example_records() -> tuple[ExitRecord, ExitRecord]:
    """Load the records of a small network with four exits on images of handwritten digits.

    They are those of the study `digits`: the MSDNet `msdnet-small` with seed 0, trained on 897 of the 8 × 8 images of
    scikit-learn's `load_digits`. `snakemake artifacts/digits/records/msdnet-small-s0/test.safetensors` makes the same
    file, byte for byte.

    Returns
    -------
    validation : ExitRecord
        360 samples, 4 exits, 10 classes, with logits and labels. Costs are in MACs.
    test : ExitRecord
        540 other samples.

    Examples
    --------
    >>> from offramp.records.example import example_records
    >>> validation, test = example_records()
    >>> validation
    <ExitRecord 360 samples × 4 exits dataset=digits split=validation system=msdnet-small seed=0>
    >>> test.correct.mean(axis=0).round(3)
    array([0.798, 0.941, 0.969, 0.972])
    """
    folder = Path(__file__).with_name("digits")
    return ExitRecord.load(folder / "validation.safetensors"), ExitRecord.load(folder / "test.safetensors")
