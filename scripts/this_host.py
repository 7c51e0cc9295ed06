"""Prints, for ``HOST:PORT``: its address, this host's address on the way there, the interface."""

import fcntl
import socket
import struct
import sys

SIOCGIFADDR = 0x8915


def interface_of(probe, address):
    """Returns the name of the interface that has an IPv4 address, or an empty string."""
    for _, name in socket.if_nameindex():
        try:
            answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
        except OSError:  # it has none
            continue
        if socket.inet_ntoa(answer[20:24]) == address:
            return name
    return ""


def fail(message):
    print(message)
    sys.exit(2)


def main(master):
    host, _, port = master.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        fail(f"'{master}' is not HOST:PORT")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, int(port)))  # sends nothing
            address, mine = probe.getpeername()[0], probe.getsockname()[0]
            interface = interface_of(probe, mine)
    except OSError as error:
        fail(f"'{host}' cannot be reached from here: {error}")
    if address.startswith("127.") and host not in (address, "localhost"):
        fail(f"'{host}' is {address} here, which no other host reaches: give its address")
    print(f"{address}:{port} {mine} {interface}")


if __name__ == "__main__":
    main(sys.argv[1])
