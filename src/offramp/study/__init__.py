"""Settings and cost estimates of studies. This package requires a checkout of the project."""
