"""Source files on which a job depends, found by following imports."""

import ast
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

# Modules that do not affect results. Changing them must not cause models to be trained again
WITHOUT_RESULTS = (
    "offramp.cli",
    "offramp._io",
    "offramp._registry",
    "offramp.datasets.download",
    "offramp.reports.catalogue",
)


def sources(*modules: str, root: str | Path = "src") -> list[str]:
    """Return the source files of modules of the package, and of all modules that they import from it.

    The `__init__` of a package is followed but not listed, because it only registers or re-exports names. Imports
    inside functions are included. The modules that a registry names in strings are not followed.

    Parameters
    ----------
    modules : str
        Names relative to `offramp`, for example "comparison.claims".
    root : path
        Folder that contains the package.

    Returns
    -------
    list of str
        Sorted paths, which begin with `root`.

    Raises
    ------
    ValueError
        If a module does not exist.
    """
    waiting, found = [f"offramp.{module}" for module in modules], {}
    while waiting:
        module = waiting.pop()
        if module in found or any(f"{module}.".startswith(f"{no}.") for no in WITHOUT_RESULTS):
            continue
        path = _file(module, Path(root))
        if path is None:
            raise ValueError(f"{module}: no such module in {root}; expected the name of a file or a package")
        found[module] = path
        waiting += _imports(path, module if path.name == "__init__.py" else module.rpartition(".")[0], Path(root))
    return sorted(str(path) for path in found.values() if path.name != "__init__.py")


@cache
def _file(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _imports(path: Path, package: str, root: Path) -> list[str]:
    """Return the modules of Offramp that a file imports, including imported names that are modules."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            names = [f"{module}.{alias.name}" for alias in node.names]
            submodules = [name for name in names if name.startswith("offramp.") and _file(name, root)]
            found += [module] if len(submodules) < len(names) else []
            found += submodules
    return [name for name in found if name.startswith("offramp.")]
