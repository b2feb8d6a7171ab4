"""The source files of a job: those that its modules import, and no others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import ROOT
from offramp.study.sources import WITHOUT_RESULTS, sources

FILES = {
    "offramp/__init__.py": "from offramp.base import Base\n",
    "offramp/base.py": "import os\n\nimport numpy as np\n",
    "offramp/alone.py": "",
    "offramp/direct.py": "import offramp.base\n",
    "offramp/late.py": "def run():\n    from offramp.models.one import build\n",
    "offramp/registered.py": "from offramp.models import MODELS\nfrom offramp import _io, cli\n",
    "offramp/lost.py": "from offramp.nowhere import thing\n",
    "offramp/_io/__init__.py": "",
    "offramp/_io/writing.py": "",
    "offramp/cli/__init__.py": "from offramp.direct import base\n",
    "offramp/models/__init__.py": "MODELS = {'one': 'one:build', 'two': 'two:build'}\n",
    "offramp/models/one.py": "from .layers import conv\n",
    "offramp/models/two.py": "from ..direct import base\n",
    "offramp/models/layers/__init__.py": "from . import conv\n",
    "offramp/models/layers/conv.py": "from ... import base\n",
    "offramp/circle/__init__.py": "from .a import A\n",
    "offramp/circle/a.py": "from .b import B\n",
    "offramp/circle/b.py": "from .a import A\n",
}


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def found(*modules):
        return [Path(path).relative_to(tmp_path / "offramp").as_posix() for path in sources(*modules, root=tmp_path)]

    return found


@pytest.mark.parametrize(
    ("modules", "files"),
    [
        (["alone"], ["alone.py"]),
        (["direct"], ["base.py", "direct.py"]),
        (["late"], ["base.py", "late.py", "models/layers/conv.py", "models/one.py"]),  # also what a function imports
        (["registered"], ["registered.py"]),  # neither the registry nor what holds no results
        (["models.two"], ["base.py", "direct.py", "models/two.py"]),  # a module of a registry, if it is named
        (["circle"], ["circle/a.py", "circle/b.py"]),
        (["direct", "alone", "direct"], ["alone.py", "base.py", "direct.py"]),
        ([], []),
    ],
)
def test_imports_are_followed(package, modules, files):
    assert package(*modules) == files


@pytest.mark.parametrize("module", ["nowhere", "lost", "models.three"])
def test_a_missing_module_is_an_error(package, module):
    missing = {"lost": "nowhere"}.get(module, module)
    with pytest.raises(ValueError, match=rf"offramp\.{missing}: no such module in .*expected the name of a file"):
        package(module)


def test_paths_begin_with_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert "src/offramp/policies/pcee.py" in sources("policies")


USED = """
import importlib, json, sys, types

def used(start):
    waiting, found = [start], {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            module = importlib.import_module(name)
            found[name] = module.__file__
            if not module.__file__.endswith("__init__.py"):
                for value in vars(module).values():
                    of = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
                    if isinstance(of, str) and of.startswith("offramp."):
                        waiting.append(of)
    return found

print(json.dumps({module: used("offramp." + module) for module in sys.argv[1:]}))
"""


def test_what_python_imports_is_among_the_sources():
    """A fresh Python imports the modules, and tells where all comes from that stands in them, and so on."""
    modules = ["evaluation.exits", "reports.tables.claims", "cascades.building", "comparison.matched", "training.loop"]
    done = subprocess.run([sys.executable, "-c", USED, *modules], capture_output=True, text=True, check=True)
    for module, used in json.loads(done.stdout).items():
        known = {Path(path) for path in sources(module, root=ROOT / "src")}
        assert len(used) > 1
        for name, file in used.items():
            without_results = any(f"{name}.".startswith(f"{its}.") for its in WITHOUT_RESULTS)
            if not (without_results or file.endswith("__init__.py")):
                assert Path(file) in known, f"{module} uses {name}"
