"""The figures of a study, one module per figure. `reports.catalogue` lists them."""
