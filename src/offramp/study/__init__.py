"""What needs a checkout of the project: the settings of a study, and what it costs."""
