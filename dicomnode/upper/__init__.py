"""The upper layer without polling: PS3.8's PDUs and PS3.7's command sets on a socket that one thread waits on."""
