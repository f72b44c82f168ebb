"""The commands of `dicomnode`, one module each; `cli.py` mounts them."""
