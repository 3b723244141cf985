"""FFmpeg and the probe: found, started, limited, watched and checked. Nothing else starts a process."""
