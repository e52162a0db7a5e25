"""Tables of all runs."""
