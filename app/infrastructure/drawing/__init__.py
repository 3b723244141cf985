"""Drawing titles, shapes and pictures, in a limited child process; the service knows the fonts only."""
