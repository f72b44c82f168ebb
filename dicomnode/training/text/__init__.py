"""Teach the networks that find text in frames, on text drawn over real pictures; torch lives in `learn` and `network`."""
