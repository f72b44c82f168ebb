"""The Storage SCU: a lane per destination, and the client that commands use."""

from dicomnode.scu.client import EchoReport, echo, send_files
from dicomnode.scu.sender import run_sender

__all__ = ["EchoReport", "echo", "run_sender", "send_files"]
