"""The tables of a study, a module each; `reports.catalogue` lists them."""
