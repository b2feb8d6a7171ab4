"""The figures of a study, a module each; `reports.catalogue` lists them."""
