"""``dicomnode drill``: what can go wrong is made to go wrong, on a scratch node, after every update."""

from dicomnode.drill.command import drill

__all__ = ["drill"]
