"""The six templates: what is drawn over which picture, when and how it moves. Pure data."""
