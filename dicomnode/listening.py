"""The listening socket: bound by us, passed by systemd, or handed down by the supervisor; one kernel queue for all acceptors.

**Way** Whoever starts first asks `own`: the socket that systemd passed, else one bound to ``node.bind`` and ``node.port``. The
supervisor keeps it and hands it to each acceptor as a descriptor, which takes it by `handed`. A connection that nobody has
accepted yet waits in the kernel's queue, so an acceptor that dies or is replaced refuses nobody; with systemd's socket the
whole node may be restarted.

**Fails** An address or port that can never be had, or a passed descriptor that is no listening TCP socket, is `BadSetting`;
one that cannot be had now is `CannotListen`. Both name address and port.

**Standard** sd_listen_fds(3). PS3.8 9.1.1: port 104 or 11112.

**Limits** One socket. A unit with several ListenStream lines is refused: ``ListenStream=104`` alone takes IPv4 and IPv6.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from dicomnode.errors import BadSetting, CannotListen, DicomNodeError
from dicomnode.settings import NodeSettings

#: Descriptors of the listening socket and of the table of seats, in the environment of acceptors.
DESCRIPTOR = "DICOMNODE_LISTEN_FD"
SEATS = "DICOMNODE_SEATS_FD"
#: Connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn.
BACKLOG = 1024
_FIRST_PASSED = 3  # SD_LISTEN_FDS_START


def own(node: NodeSettings) -> socket.socket:
    """Give the socket of this process: systemd's when one was passed, else a new one.

    Raises
    ------
    BadSetting, CannotListen
        See Fails.
    """
    return passed() or bind(node)


def passed() -> socket.socket | None:
    """Give the socket that systemd passed to this very process; None when it passed none.

    Raises
    ------
    BadSetting
        It passed several, or something else than a listening TCP socket.
    """
    pid, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
    if pid != str(os.getpid()) or not count.isdecimal() or count == "0":
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"):
        os.environ.pop(name, None)
    if count != "1":
        raise BadSetting(f"systemd passed {count} sockets: dicomnode.socket may have one ListenStream line only")
    return _checked(_FIRST_PASSED)


def handed() -> socket.socket | None:
    """Give the socket that the supervisor handed to this acceptor; None without a supervisor."""
    descriptor = os.environ.pop(DESCRIPTOR, None)
    return None if descriptor is None else _checked(int(descriptor))


def _checked(descriptor: int) -> socket.socket:
    what = "the passed descriptor is no listening TCP socket: dicomnode.socket needs ListenStream=, Accept=no"
    try:
        os.set_inheritable(descriptor, False)
        mode = os.fstat(descriptor).st_mode
    except OSError:  # it is not open
        mode = 0
    if not stat.S_ISSOCK(mode):
        raise BadSetting(what)
    sock = socket.socket(fileno=descriptor)
    listens = (
        sock.family in (socket.AF_INET, socket.AF_INET6)
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )
    if not listens:
        sock.close()
        raise BadSetting(what)
    return sock


def bind(node: NodeSettings) -> socket.socket:
    """Bind and listen as the settings say.

    Raises
    ------
    BadSetting
        We may not have this port, or the address is none.
    CannotListen
        It cannot be had now.
    """
    try:
        found = socket.getaddrinfo(node.bind, node.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise _no_port(node, error) from None
    return sock


def _no_port(node: NodeSettings, error: OSError) -> DicomNodeError:
    """What it means that the port could not be had."""
    port = node.port
    where = f"cannot listen on {node.bind}:{port} ({error.strerror})"
    if error.errno in (errno.EACCES, errno.EPERM):
        return BadSetting(
            f"node.port: {where}; ports below 1024 need a privilege: let dicomnode.socket own the port, "
            "set one of 1024 or above (11112 is registered for DICOM), or give the process CAP_NET_BIND_SERVICE"
        )
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return BadSetting(f"node.bind: {where}")
    if error.errno == errno.EADDRINUSE:
        return CannotListen(f"node.port: {where}; another program has the port: `ss -ltnp 'sport = :{port}'` shows which")
    return CannotListen(f"node.port: {where}")


def port_of(sock: socket.socket) -> int:
    """Give the TCP port that a socket listens on."""
    return int(sock.getsockname()[1])


def free_port() -> int:
    """Give a TCP port of loopback that nobody has now, for a node on trial."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return port_of(probe)
