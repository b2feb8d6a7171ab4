"""The tables of a study, one module per table. `reports.catalogue` lists them."""
