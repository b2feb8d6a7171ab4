"""Many runs set side by side, with an interval for every number."""
