"""The Storage SCP: takes instances at the door and promises only what is safe on disk."""

from dicomnode.scp.acceptor import run_acceptor

__all__ = ["run_acceptor"]
