"""Tidemill: resumable uploads of large videos in, finished files out, nothing left behind."""
