"""Configs: read from files and packages, checked, completed; and where the data sets in them come from."""
