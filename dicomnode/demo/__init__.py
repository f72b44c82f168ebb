"""``dicomnode demo``: the whole loop on this machine, a node and an archive, with images of nobody."""

from dicomnode.demo.command import demo

__all__ = ["demo"]
