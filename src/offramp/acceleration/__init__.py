"""From any model and a set of inputs to a faster one with a certificate (`offramp accelerate`)."""
