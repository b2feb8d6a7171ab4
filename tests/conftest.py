"""What several test files share."""

import pytest

from checkout import Checkout


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Checkout:
    """The tiny study, run to its end. Tests leave it as it is, or work on a `copy`."""
    checkout = Checkout(tmp_path_factory.mktemp("study"))
    done = checkout.run("--cores", "2")
    assert done.returncode == 0, done.stderr
    return checkout
