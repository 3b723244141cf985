"""The data folder on a local disk: its paths, its bytes and its locks."""
